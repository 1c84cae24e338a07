//! A connection to Redis: made blocking, with time limits, and driven without blocking from then on.

use super::address::{RedisAddress, Target};
use mio::{Interest, Registry, Token, event::Source};
use redis::{Parser, Value, cmd};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Stream};
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

/// How long making a connection may take, all of it.
const CONNECT_MAX: Duration = Duration::from_secs(4);

/// The connection's token; the bell has another.
pub(super) const WIRE: Token = Token(1);

enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

enum BlockingSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection that answered a `PING`.
pub(super) struct Wire {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

impl Wire {
    /// Connects, proves who we are and calls the connection `name`, which `CLIENT LIST` shows.
    pub fn connect(address: &RedisAddress, name: &str) -> io::Result<Wire> {
        Blocking::open(address, name)?.into_wire()
    }

    pub fn register(&mut self, registry: &Registry) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.source().register(registry, WIRE, interest)
    }

    fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
        }
    }

    /// Reads what is there, at most `buffer`. `WouldBlock`: nothing is; `UnexpectedEof`: nothing will ever be.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.as_mut() else {
            return match self.socket.read(buffer)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                count => Ok(count),
            };
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                done => return done,
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Writes what the socket takes of `bytes`. `WouldBlock`: nothing of them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.as_mut() else {
            return self.socket.write(bytes);
        };
        // What was encrypted before goes first; it is bounded by rustls.
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let count = tls.writer().write(bytes)?;
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Whether bytes that [`Wire::write`] took have not left yet.
    pub fn holds_bytes(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection while it is being made.
pub(super) struct Blocking {
    socket: BlockingSocket,
    tls: Option<Box<ClientConnection>>,
    deadline: Instant,
}

impl Blocking {
    /// Connects to the master, proves who we are, names the connection and hears an answer.
    pub fn open(address: &RedisAddress, name: &str) -> io::Result<Blocking> {
        let deadline = Instant::now() + CONNECT_MAX;
        let target = match &address.sentinels {
            None => address.target.clone(),
            Some(_) => ask_sentinels(address, deadline)?,
        };
        let mut blocking = Blocking::connect(address, &target, deadline)?;
        if let Some(password) = &address.password {
            let mut auth = cmd("AUTH");
            if let Some(username) = &address.username {
                auth.arg(username);
            }
            blocking.ask(auth.arg(password))?;
        }
        // Old proxies do not know it, and nothing depends on it.
        if let Err(error) = blocking.ask(cmd("CLIENT").arg("SETNAME").arg(name)) {
            tracing::debug!("the connection stays without a name: {error}");
        }
        blocking.ask(&cmd("PING"))?;
        Ok(blocking)
    }

    fn connect(address: &RedisAddress, target: &Target, deadline: Instant) -> io::Result<Blocking> {
        let (socket, tls) = match target {
            Target::Unix(path) => (
                BlockingSocket::Unix(std::os::unix::net::UnixStream::connect(path)?),
                None,
            ),
            Target::Tcp(host, port) => {
                let socket = connect_tcp(host, *port, deadline)?;
                socket.set_nodelay(true)?;
                let tls = address.tls.as_ref().map(|config| {
                    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                    let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                    Ok::<_, io::Error>(Box::new(connection))
                });
                (BlockingSocket::Tcp(socket), tls.transpose()?)
            }
        };
        Ok(Blocking { socket, tls, deadline })
    }

    /// Sends one command and waits for its answer.
    pub fn ask(&mut self, command: &redis::Cmd) -> io::Result<Value> {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        // A time limit of zero means none.
        let rest = Some(rest.max(Duration::from_millis(1)));
        match &self.socket {
            BlockingSocket::Tcp(socket) => socket.set_read_timeout(rest).and(socket.set_write_timeout(rest))?,
            BlockingSocket::Unix(socket) => socket.set_read_timeout(rest).and(socket.set_write_timeout(rest))?,
        }
        let packed = command.get_packed_command();
        let answer = match &mut self.tls {
            Some(tls) => exchange(&mut Stream::new(tls.as_mut(), &mut self.socket), &packed),
            None => exchange(&mut self.socket, &packed),
        };
        answer.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
            }
            _ => error,
        })
    }

    fn into_wire(self) -> io::Result<Wire> {
        let socket = match self.socket {
            BlockingSocket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Tcp(mio::net::TcpStream::from_std(socket))
            }
            BlockingSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Socket::Unix(mio::net::UnixStream::from_std(socket))
            }
        };
        Ok(Wire { socket, tls: self.tls })
    }
}

impl Read for BlockingSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            BlockingSocket::Tcp(socket) => socket.read(buffer),
            BlockingSocket::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for BlockingSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            BlockingSocket::Tcp(socket) => socket.write(bytes),
            BlockingSocket::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn exchange(stream: &mut (impl Read + Write), command: &[u8]) -> io::Result<Value> {
    stream.write_all(command)?;
    stream.flush()?;
    let refused = |error: redis::RedisError| match error.kind() {
        redis::ErrorKind::Io => io::Error::new(io::ErrorKind::ConnectionAborted, error.to_string()),
        _ => io::Error::other(error.to_string()),
    };
    match Parser::new().parse_value(stream).map_err(refused)? {
        Value::ServerError(error) => Err(io::Error::other(format!("Redis refuses: {error}"))),
        value => Ok(value),
    }
}

fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<std::net::TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        let rest = deadline.saturating_duration_since(Instant::now());
        match std::net::TcpStream::connect_timeout(&address, rest.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The address of the master, from the first sentinel that knows it.
fn ask_sentinels(address: &RedisAddress, deadline: Instant) -> io::Result<Target> {
    let Some(sentinels) = &address.sentinels else {
        return Ok(address.target.clone());
    };
    let question = cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(&sentinels.master)
        .to_owned();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no sentinel was asked");
    // Each gets its part of the time, so that a dead one does not use it up.
    let share = deadline.saturating_duration_since(Instant::now()) / (sentinels.nodes.len() as u32 + 1);
    for (host, port) in &sentinels.nodes {
        let target = Target::Tcp(host.clone(), *port);
        let answer = Blocking::connect(address, &target, Instant::now() + share).and_then(|mut one| one.ask(&question));
        match answer.map(redis::from_redis_value::<(String, u16)>) {
            Ok(Ok((host, port))) => return Ok(Target::Tcp(host, port)),
            Ok(Err(_)) => {
                last = io::Error::other(format!("sentinel {host}:{port} knows no master {}", sentinels.master));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
