//! Signals, taken by one thread that waits for them. Everybody else has them blocked.

use std::io;

/// What the operator asks of a running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: end in order.
    Stop(&'static str),
    /// SIGHUP: read again what may change while running.
    Reload,
    /// SIGUSR1: tell the log how it is.
    Dump,
}

/// The signals that mean something here. Made before any thread is started, so that all threads inherit the block.
#[derive(Debug)]
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks them in this thread and those it starts from now on. A closed terminal or peer must not end the process, so
    /// SIGPIPE is ignored; nor must a file that may not grow (SIGXFSZ), which is an error like a full disk.
    pub fn block() -> io::Result<Signals> {
        // SAFETY: sigset_t is plain data for which all zeroes is a valid start; sigemptyset initialises it.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` outlives the calls, the signal numbers are valid, and no handler runs our code.
        let blocked = unsafe {
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
                libc::sigaddset(&mut set, signal);
            }
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut())
        };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        Ok(Signals { set })
    }

    /// Waits for the next one.
    pub fn wait(&self) -> io::Result<Signal> {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        let result = unsafe { libc::sigwait(&self.set, &mut signal) };
        match (result, signal) {
            (0, libc::SIGTERM) => Ok(Signal::Stop("SIGTERM")),
            (0, libc::SIGHUP) => Ok(Signal::Reload),
            (0, libc::SIGUSR1) => Ok(Signal::Dump),
            (0, _) => Ok(Signal::Stop("SIGINT")),
            (error, _) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
