//! `synckit-server`: the binary. Reads the configuration, starts the server, waits for a signal.

use clap::Parser;
use std::process::ExitCode;
use synckit_server::config::files::environment_variable;
use synckit_server::config::{Config, Flags};
use synckit_server::runtime::{StopSignals, refuse_huge_pages};
use synckit_server::{log, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A second signal, or this long after the first, ends the process whatever it does.
const SHUTDOWN_SECONDS_MAX: u64 = 10;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match Config::from_env(environment_variable, &flags) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    log::start();
    if let Err(error) = refuse_huge_pages() {
        tracing::warn!("cannot switch off huge pages, memory per connection will be higher: {error}");
    }
    let signals = match StopSignals::block() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    let running = match server::start(config) {
        Ok(running) => running,
        Err(error) => return fail(&error),
    };
    let stopper = running.stopper();
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            tracing::info!("{signal}: closing connections");
        }
        stopper.shut_down();
        std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_secs(SHUTDOWN_SECONDS_MAX));
            tracing::error!("not drained after {SHUTDOWN_SECONDS_MAX} s: giving up");
            std::process::exit(1);
        });
        let _ = signals.wait();
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

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("synckit-server: {error}");
    ExitCode::FAILURE
}
