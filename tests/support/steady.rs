//! A TCP connection whose reads and writes are not interrupted.
//!
//! A read that has a time limit ends with `EINTR` when a signal reaches its thread, and `SIGCHLD` may reach any thread: it
//! is ignored, but not while the parent's thread that it is for starts the next child with all signals blocked.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::Duration;

/// See the module.
pub struct Steady(TcpStream);

impl Steady {
    /// Connects; reads and writes take at most `limit`.
    pub fn connect(address: SocketAddr, limit: Duration) -> Result<Steady> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Steady(stream))
    }
}

fn steadily(mut attempt: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Read for Steady {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        steadily(|| self.0.read(bytes))
    }
}

impl Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        steadily(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Deref for Steady {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.0
    }
}
