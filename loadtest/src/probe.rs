//! Finds out what a server answers before it is measured, so that a step it cannot do is named and not timed.
//!
//! Two ordinary blocking connections go through everything the scenarios need: upgrade, `auth`, `subscribe`,
//! `awareness_subscribe`, a change with its acknowledgement and deliveries, and a text.

use crate::control::{Abilities, Credentials};
use crate::dialect::{self, Delta, Dialect, Speaker};
use crate::frame;
use crate::options::Common;
use crate::result::UnsupportedStep;
use crate::run::Prepared;
use crate::sockets;
use crate::stamp::Stamp;
use crate::target::Target;
use crate::token::Mint;
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use synckit_server::protocol::Kind;

/// Longest wait for an answer to one step.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a change may take to everybody when its acknowledgement is there already; flush windows of the family are
/// at most 50 ms.
const ECHO_PATIENCE: Duration = Duration::from_millis(500);

/// The accept key for the example key of RFC 6455 section 1.3, which all connections of this tool send.
const ACCEPT_KEY: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Resolves the URL and asks the server what it can do.
///
/// # Errors
/// An unusable URL; a server that cannot be reached, is no WebSocket server, or refuses the credentials.
pub fn prepare(common: &Common) -> Result<Prepared> {
    let target = Target::parse(&common.url)?;
    let mut findings = Findings::default();
    let mut first = Caller::connect(common, &target, 1)?;
    if common.dialect == Dialect::Bare {
        findings.abilities.text = false;
    } else {
        let document = format!("probe-{}-{}", sockets::unix_ms(), std::process::id());
        first.introduce(&document, &mut findings)?;
        let mut second = Caller::connect(common, &target, 2)?;
        second.follow(&document, &findings.abilities)?;
        try_change(&mut first, &mut second, &document, &mut findings)?;
        try_text(&mut first, &document, &mut findings)?;
    }
    Ok(Prepared {
        target,
        abilities: findings.abilities,
        unsupported: findings.unsupported,
    })
}

#[derive(Default)]
struct Findings {
    abilities: Abilities,
    unsupported: Vec<UnsupportedStep>,
}

impl Findings {
    /// Notes a step that was not answered as it should be.
    fn cannot(&mut self, step: &str, answer: Option<Heard>) {
        let reason = match answer {
            Some(heard) => format!(
                "the server answered {}: {}",
                heard.kind.name(),
                dialect::error_name(&heard.json)
            ),
            None => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        self.unsupported.push(UnsupportedStep {
            step: step.to_owned(),
            reason,
        });
    }
}

/// One message of the server.
struct Heard {
    kind: Kind,
    json: Vec<u8>,
}

/// A blocking client.
struct Caller {
    stream: TcpStream,
    speaker: Speaker,
    out: Vec<u8>,
    inbound: Vec<u8>,
    token: Option<String>,
    number: u32,
}

impl Caller {
    fn connect(common: &Common, target: &Target, number: u32) -> Result<Self> {
        let unreachable = || format!("{}: the server cannot be reached", common.url);
        let mut stream = TcpStream::connect_timeout(&target.address, PATIENCE).with_context(unreachable)?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            target.path, target.host
        );
        stream.write_all(request.as_bytes()).with_context(unreachable)?;
        let token = match common.credentials(target)? {
            Credentials::None => None,
            Credentials::Token(token) => Some(token),
            Credentials::Secret(secret) => Some(Mint::new(&secret)?.token(u32::MAX - number, sockets::unix_ms())?),
        };
        let mut caller = Self {
            stream,
            speaker: Speaker::new(common.dialect, common.encoding, number),
            out: Vec::new(),
            inbound: Vec::new(),
            token,
            // Beyond the numbers of all connections that are measured.
            number: u32::MAX - number,
        };
        caller.upgraded(&common.url)?;
        Ok(caller)
    }

    fn upgraded(&mut self, url: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.inbound, b"\r\n\r\n") {
                break end + 4;
            }
            if !self
                .receive(deadline)
                .with_context(|| format!("{url}: while upgrading"))?
            {
                bail!(
                    "{url}: no answer to the WebSocket upgrade within {} s",
                    PATIENCE.as_secs()
                );
            }
        };
        let head = String::from_utf8_lossy(&self.inbound[..end]).into_owned();
        let line = head.lines().next().unwrap_or_default();
        if !line.starts_with("HTTP/1.1 101") {
            bail!("{url}: the WebSocket upgrade was answered with {line:?}; is the path right?");
        }
        if !head.contains(ACCEPT_KEY) {
            bail!("{url}: the answer to the WebSocket upgrade has a wrong accept key");
        }
        self.inbound.drain(..end);
        Ok(())
    }

    /// Reads once; false when the deadline has passed.
    fn receive(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => bail!("the server ended the connection"),
            Ok(count) => self.inbound.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    fn send(&mut self) -> Result<()> {
        self.stream
            .write_all(&self.out)
            .context("the server ended the connection")?;
        self.out.clear();
        Ok(())
    }

    /// The next message that `wanted` accepts, or an error message; `None` when none comes in time.
    fn hear(&mut self, within: Duration, wanted: impl Fn(&Heard) -> bool) -> Result<Option<Heard>> {
        let deadline = Instant::now() + within;
        loop {
            while let Some(received) = frame::parse(&mut self.inbound, 0) {
                let end = received.payload.end;
                let payload = self.inbound[received.payload].to_vec();
                self.inbound.drain(..end);
                match received.opcode {
                    8 => bail!("the server closed the connection: {}", close_text(&payload)),
                    9 => {
                        self.speaker.pong_frame(&mut self.out, &payload);
                        self.send()?;
                    }
                    1 | 2 => {
                        let Some((kind, json)) = dialect::read(&payload) else {
                            continue;
                        };
                        let heard = Heard {
                            kind,
                            json: json.to_vec(),
                        };
                        if wanted(&heard) || matches!(kind, Kind::Error | Kind::AuthError) {
                            return Ok(Some(heard));
                        }
                    }
                    _ => {}
                }
            }
            if !self.receive(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Authenticates and subscribes, waiting only for answers that are known to come.
    fn follow(&mut self, document: &str, abilities: &Abilities) -> Result<()> {
        let token = self.token.take();
        if token.is_some() || self.speaker.dialect().always_authenticates() {
            self.speaker.auth(&mut self.out, token.as_deref(), self.number);
            self.send()?;
            if abilities.auth {
                self.hear(PATIENCE, |heard| heard.kind == Kind::AuthSuccess)
                    .context("authentication")?;
            }
        }
        self.speaker.subscribe(&mut self.out, document);
        self.send()?;
        if abilities.subscribe {
            self.hear(PATIENCE, |heard| heard.kind == Kind::SyncResponse)
                .context("subscribe")?;
        }
        Ok(())
    }

    /// Authenticates and subscribes, and notes what is not answered.
    fn introduce(&mut self, document: &str, findings: &mut Findings) -> Result<()> {
        let token = self.token.take();
        if token.is_some() || self.speaker.dialect().always_authenticates() {
            self.speaker.auth(&mut self.out, token.as_deref(), self.number);
            self.send()?;
            match self
                .hear(PATIENCE, |heard| heard.kind == Kind::AuthSuccess)
                .context("authentication")?
            {
                Some(heard) if heard.kind == Kind::AuthSuccess => {}
                Some(heard) if heard.kind == Kind::AuthError => {
                    bail!(
                        "the server refuses the credentials: {}",
                        dialect::error_name(&heard.json)
                    )
                }
                other => {
                    findings.abilities.auth = false;
                    findings.cannot("auth", other);
                }
            }
        }
        self.speaker.subscribe(&mut self.out, document);
        self.send()?;
        let wants_token = "the server wants authentication: give --jwt-secret, --token or --login";
        match self
            .hear(PATIENCE, |heard| heard.kind == Kind::SyncResponse)
            .context("subscribe")?
        {
            Some(heard) if heard.kind == Kind::SyncResponse => {}
            Some(heard) if dialect::error_name(&heard.json).contains("AUTH") => bail!(wants_token),
            None if token.is_none() && findings.abilities.auth => {
                // Servers queue what comes before authentication, so silence may mean just that.
                findings.abilities.subscribe = false;
                findings.cannot("subscribe", None);
                findings.unsupported.last_mut().expect("just noted").reason += &format!(" ({wants_token}?)");
            }
            other => {
                findings.abilities.subscribe = false;
                findings.cannot("subscribe", other);
            }
        }
        self.speaker.awareness_subscribe(&mut self.out, document);
        self.send()?;
        match self
            .hear(PATIENCE, |heard| heard.kind == Kind::AwarenessState)
            .context("awareness_subscribe")?
        {
            Some(heard) if heard.kind == Kind::AwarenessState => {}
            other => {
                findings.abilities.awareness = false;
                findings.cannot("awareness_subscribe", other);
            }
        }
        Ok(())
    }
}

/// One change of the first connection: is it acknowledged, echoed, delivered to the second?
fn try_change(first: &mut Caller, second: &mut Caller, document: &str, findings: &mut Findings) -> Result<()> {
    let stamp = Stamp {
        writer: 0,
        sequence: 1,
        due_ns: sockets::monotonic_ns(),
    };
    let delta = Delta {
        document,
        field: 0,
        stamp,
        payload_bytes: 150,
        client: first.number,
    };
    first.speaker.delta(&mut first.out, &delta);
    first.send()?;
    let is_change = |heard: &Heard| {
        matches!(heard.kind, Kind::Delta | Kind::DeltaBatch)
            && Stamp::find(&heard.json).is_some_and(|(found, _)| found == stamp)
    };
    let is_ack = |heard: &Heard| heard.kind == Kind::Ack && dialect::acknowledged(&heard.json) == Some(1);
    let answer = first
        .hear(PATIENCE, |heard| is_ack(heard) || is_change(heard))
        .context("a change")?;
    let mut is_echoed = answer.as_ref().is_some_and(is_change);
    let mut is_acked = answer.as_ref().is_some_and(is_ack);
    if let Some(other) = first
        .hear(ECHO_PATIENCE, |heard| is_ack(heard) || is_change(heard))
        .context("a change")?
    {
        is_echoed |= is_change(&other);
        is_acked |= is_ack(&other);
    }
    findings.abilities.echo = is_echoed;
    if !is_acked {
        findings.abilities.ack = false;
        findings.cannot("ack", answer.filter(|heard| !is_change(heard)));
    }
    match second.hear(PATIENCE, is_change).context("a change of another client")? {
        Some(heard) if is_change(&heard) => {}
        other => {
            findings.abilities.broadcast = false;
            findings.cannot("broadcast", other);
        }
    }
    Ok(())
}

fn try_text(caller: &mut Caller, document: &str, findings: &mut Findings) -> Result<()> {
    if !findings.abilities.ack {
        // Whether a text is taken shows by its acknowledgement only.
        findings.abilities.text = false;
        return Ok(());
    }
    let mut state = Vec::new();
    crate::worker::Text::default().type_word("probe", &mut state);
    let document = format!("{document}-text");
    caller
        .speaker
        .text_state(&mut caller.out, &document, caller.number, 2, &state);
    caller.send()?;
    let is_ack = |heard: &Heard| heard.kind == Kind::Ack && dialect::acknowledged(&heard.json) == Some(2);
    match caller.hear(PATIENCE, is_ack).context("a text")? {
        Some(heard) if is_ack(&heard) => {}
        other => {
            findings.abilities.text = false;
            findings.cannot("text", other);
        }
    }
    Ok(())
}

fn close_text(payload: &[u8]) -> String {
    match payload.split_first_chunk::<2>() {
        Some((code, text)) => format!("{} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(text)),
        None => "without a code".to_owned(),
    }
}
