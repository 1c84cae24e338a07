//! `synckit-server [serve]`: runs the server until a signal ends it.

use super::{Given, fail};
use crate::config::{Config, files};
use crate::log::{self, Levels};
use crate::notify::Notifier;
use crate::runtime::{Signal, Signals, inherited, monotonic_us, refuse_huge_pages};
use crate::server::reload::Reloaders;
use crate::server::{self, Dumper};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A second signal, or this long after the first and the window, ends the process whatever it does.
const SHUTDOWN_BESIDE_WINDOW: Duration = Duration::from_secs(8);

pub(super) fn run(given: &Given) -> ExitCode {
    // Before anything else opens descriptors.
    let listeners = match inherited::listeners() {
        Ok(listeners) => listeners,
        Err(error) => return fail(&error),
    };
    let config = match given.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let levels = log::start(&config.operation.log);
    if let Err(error) = refuse_huge_pages() {
        tracing::warn!("cannot switch off huge pages, memory per connection will be higher: {error}");
    }
    let signals = match Signals::block() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let notifier = Arc::new(Notifier::from_environment());
    notifier.status("starting");
    let within = SHUTDOWN_BESIDE_WINDOW + Duration::from_millis(config.operation.drain_ms);
    let running = match server::start(config, listeners) {
        Ok(running) => running,
        Err(error) => {
            notifier.status(&format!("did not start: {error}"));
            return fail(&error);
        }
    };
    if let Err(error) = running.watch(notifier.clone()) {
        return fail(&error);
    }
    let (stopper, reloaders, dumper) = (running.stopper(), running.reloaders(), running.dumper());
    let reloaded = Given {
        flags: given.flags.clone(),
        config: given.config.clone(),
    };
    reloaders.register("log levels", Box::new(move |config| set_levels(&levels, config)));
    notifier.ready();
    std::thread::spawn(move || {
        let attendant = Attendant {
            signals,
            notifier,
            given: reloaded,
            reloaders,
            dumper,
        };
        let name = attendant.until_stopped();
        tracing::info!("{name}: closing connections");
        attendant.notifier.stopping(within);
        attendant.notifier.status("draining: connections are being closed");
        stopper.shut_down();
        std::thread::spawn(move || {
            std::thread::sleep(within);
            tracing::error!("not drained after {within:?}: giving up");
            std::process::exit(1);
        });
        attendant.until_stopped();
        std::process::exit(1);
    });
    match running.join() {
        Ok(false) => {
            fail(&"stopped, but the database did not take everything; what it did not take was not acknowledged")
        }
        Ok(true) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn set_levels(levels: &Levels, config: &Config) -> Result<String, String> {
    levels.set(&config.operation.log)?;
    Ok(config.operation.log.clone())
}

/// Answers signals.
struct Attendant {
    signals: Signals,
    notifier: Arc<Notifier>,
    given: Given,
    reloaders: Arc<Reloaders>,
    dumper: Dumper,
}

impl Attendant {
    /// Does what signals ask for until one asks to stop; returns its name.
    fn until_stopped(&self) -> &'static str {
        loop {
            match self.signals.wait() {
                Ok(Signal::Stop(name)) => return name,
                Ok(Signal::Reload) => self.reload(),
                Ok(Signal::Dump) => self.dumper.dump(),
                Err(_) => return "no signal can be waited for",
            }
        }
    }

    fn reload(&self) {
        self.notifier.reloading(monotonic_us());
        match files::load(self.given.flags.clone(), self.given.config.as_deref()) {
            Ok(config) => self.reloaders.apply(config),
            Err(error) => tracing::error!("SIGHUP: everything stays as it was: {error}"),
        }
        self.notifier.ready();
    }
}
