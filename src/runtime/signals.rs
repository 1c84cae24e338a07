//! Signals, taken by one thread that waits for them. Everybody else has them blocked.

use std::io;

/// Signals that ask the process to stop. Made before any thread is started, so that all threads inherit the block.
#[derive(Debug)]
pub struct StopSignals {
    set: libc::sigset_t,
}

impl StopSignals {
    /// Blocks SIGTERM and SIGINT in this thread and those it starts from now on. A closed terminal or peer must not end
    /// the process, so SIGPIPE is ignored; nor must a file that may not grow (SIGXFSZ), which is an error like a full disk.
    pub fn block() -> io::Result<StopSignals> {
        // SAFETY: sigset_t is plain data for which all zeroes is a valid start; sigemptyset initialises it.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` outlives the calls, the signal numbers are valid, and no handler runs our code.
        let blocked = unsafe {
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut())
        };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        Ok(StopSignals { set })
    }

    /// Waits for the next one and returns its name.
    pub fn wait(&self) -> io::Result<&'static str> {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        let result = unsafe { libc::sigwait(&self.set, &mut signal) };
        match (result, signal) {
            (0, libc::SIGTERM) => Ok("SIGTERM"),
            (0, _) => Ok("SIGINT"),
            (error, _) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
