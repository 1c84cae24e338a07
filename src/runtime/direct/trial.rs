//! Whether direct descriptors work here: tried, not guessed from the kernel's version, which backports and sandboxes belie.

use super::Direct;
use crate::handler::Outgoing;
use crate::ids::{ShardId, Slot};
use crate::runtime::mesh::Mesh;
use crate::runtime::sockets::{CHUNK_BYTES, Event, Handle, Key, Received, Sending, Sockets};
use bytes::Bytes;
use smallvec::smallvec;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long one step of the trial may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);
const FILES: u32 = 8;

/// Accepts, names, watches, reads, answers, moves and closes one connection over two private rings. On failure says what
/// did not work. Runs on a thread of its own, because rings belong to the thread that made them.
pub(in crate::runtime) fn check() -> Result<(), String> {
    thread::spawn(run)
        .join()
        .unwrap_or_else(|_| Err("the trial panicked".into()))
}

fn run() -> Result<(), String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    let mesh: Arc<Mesh<(), ()>> = Arc::new(Mesh::new(2).map_err(at("making an eventfd"))?);
    let listen = || TcpListener::bind("127.0.0.1:0");
    let listeners = [listen().map_err(at("listening"))?, listen().map_err(at("listening"))?];
    let address = listeners[0].local_addr().map_err(at("listening"))?;
    let [here, there] = listeners.map(OwnedFd::from);
    let make = |shard, listener| Direct::new(ShardId(shard), listener, true, mesh.clone(), FILES);
    let mut here = make(0, here).map_err(at("making a ring with a file table"))?;
    let mut there = make(1, there).map_err(at("making a ring with a file table"))?;

    let mut client = TcpStream::connect(address).map_err(at("connecting"))?;
    client.set_read_timeout(Some(STEP_TIMEOUT)).map_err(at("connecting"))?;
    let handle = await_event(
        &mut here,
        "accepting into the table and asking for the peer",
        |event| match event {
            Event::Accepted { handle, peer } if peer.is_loopback() => Some(handle),
            _ => None,
        },
    )?;
    talk(&mut here, handle, &mut client, 1)?;
    let key = Key {
        slot: Slot(1),
        generation: 1,
    };
    here.depart(handle, key, ShardId(1), 0);
    let transit = await_event(&mut here, "handing a socket to another ring", |event| match event {
        Event::Departed { transit, .. } => Some(transit),
        _ => None,
    })?;
    let handle = there.arrive(transit.ok_or("handing a socket to another ring: refused")?);
    talk(&mut there, handle, &mut client, 2)?;
    there.close(
        handle,
        Some(Key {
            slot: Slot(2),
            generation: 2,
        }),
    );
    // Both had it in their tables.
    here.finish();
    there.finish();
    match client.read(&mut [0]) {
        Ok(0) => Ok(()),
        other => Err(format!("closing: the peer sees {other:?}")),
    }
}

/// Watches the socket and exchanges a message over it.
fn talk(sockets: &mut Direct, handle: Handle, client: &mut TcpStream, number: u32) -> Result<(), String> {
    let key = Key {
        slot: Slot(number),
        generation: number,
    };
    sockets
        .watch(handle, key)
        .map_err(|error| format!("watching: {error}"))?;
    client.write_all(b"ping").map_err(|error| format!("writing: {error}"))?;
    await_event(
        sockets,
        "watching a socket with a multishot poll",
        |event| match event {
            Event::Ready {
                key: ready, readiness, ..
            } if ready == key && readiness.readable => Some(()),
            _ => None,
        },
    )?;
    let mut scratch = vec![0; CHUNK_BYTES];
    let mut outcomes = Vec::new();
    sockets.receive(&[handle], &mut scratch, &mut outcomes);
    if !matches!(outcomes[..], [Received::Bytes { len: 4, .. }]) || !scratch.starts_with(b"ping") {
        return Err(format!("receiving: {outcomes:?}"));
    }
    let pieces: Outgoing = smallvec![Bytes::from_static(b"po"), Bytes::from_static(b"ng")];
    let mut batch = [Sending {
        handle,
        key,
        pieces,
        result: Ok(0),
    }];
    sockets.send(&mut batch);
    let mut answer = [0; 4];
    match client.read_exact(&mut answer) {
        Ok(()) if &answer == b"pong" => Ok(()),
        other => Err(format!("sending: {:?}, and the peer sees {other:?}", batch[0].result)),
    }
}

fn await_event<T>(sockets: &mut Direct, step: &str, want: impl Fn(Event) -> Option<T>) -> Result<T, String> {
    let patience = Instant::now() + STEP_TIMEOUT;
    let mut events = Vec::new();
    while Instant::now() < patience {
        sockets.harvest(0, &mut events);
        if let Some(found) = events.drain(..).find_map(&want) {
            return Ok(found);
        }
        thread::sleep(Duration::from_micros(50));
    }
    Err(format!("{step}: no completion"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trial_passes_on_a_kernel_that_has_direct_descriptors() {
        check().unwrap();
    }
}
