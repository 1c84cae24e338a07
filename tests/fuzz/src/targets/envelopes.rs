//! What arrives over the bus between nodes: whoever can reach it can publish anything. What is understood can be said again
//! and means the same then; a whole shard among other nodes takes any sequence of envelopes, says only well-formed things to
//! its clients, and to other nodes only what they understand.

use super::connections::World;
use crate::bare_shard::{context_among, text_frame};
use bytes::Bytes;
use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread::LocalKey;
use synckit_server::cluster::{BusEvent, BusFacts, BusLink, BusRequest};
use synckit_server::handler::Handler;
use synckit_server::ids::ShardId;
use synckit_server::peers::{Body, Encoder, Envelope, decode, decode_whole};
use synckit_server::shard::context::Context;
use synckit_server::shard::mail::Mail;

/// What the shard published since it was asked last.
type Published = Arc<Mutex<Vec<Bytes>>>;

thread_local! {
    static CONTEXT: OnceCell<(Arc<Context>, Published)> = const { OnceCell::new() };
    static SAID_AGAIN: RefCell<Checked> = RefCell::default();
    static UNDERSTOOD: RefCell<Checked> = RefCell::default();
}

/// What a check of bytes alone has passed, at most so much.
type Checked = HashSet<Box<[u8]>>;
const CHECKED_MAX: usize = 4_096;
const DOCUMENTS: [&str; 2] = ["doc", "later"];

/// Lines. One that begins with `{` arrives about a document that is loaded, one with a blank before it about one that comes
/// later, and all of them as an announcement too. Others let time pass or have a client say something.
pub fn bus_envelopes(data: &[u8]) {
    let (context, published) = CONTEXT.with(|made| made.get_or_init(among_nodes).clone());
    let mut world = World::new(context);
    world.connect(0);
    says(&mut world, "subscribe", DOCUMENTS[0], "");
    hears(
        &mut world,
        BusEvent::Joined {
            document: DOCUMENTS[0].into(),
        },
    );
    for line in data.split(|byte| *byte == b'\n').take(64) {
        match line {
            [b'{', ..] => arrives(&mut world, DOCUMENTS[0], line),
            [b' ', envelope @ ..] => arrives(&mut world, DOCUMENTS[1], envelope),
            [b'i', ..] => hears(&mut world, BusEvent::Interrupted),
            [b'j', ..] => hears(
                &mut world,
                BusEvent::Joined {
                    document: DOCUMENTS[1].into(),
                },
            ),
            [b'r', count @ ..] => hears(
                &mut world,
                BusEvent::Reached {
                    document: DOCUMENTS[1].into(),
                    nodes: count.len() as u64,
                    announced: 9,
                },
            ),
            [b's', ..] => says(&mut world, "subscribe", DOCUMENTS[1], ""),
            [b'w', ..] => says(&mut world, "delta", DOCUMENTS[0], r#","delta":{"a":1}"#),
            [b'c', ..] => says(&mut world, "delta_batch", DOCUMENTS[0], COUNTS),
            [first, ..] => world.pass(1_000 << (first % 16)),
            [] => world.pass(100_000),
        }
        world.turn();
        understood(&published);
    }
    world.finish();
    understood(&published);
}

/// Counts in a batch that others may say they have counted.
const COUNTS: &str = r#","messageId":"m","deltas":[{"type":"counter","operation":"increment","value":1e308,"clientId":"c"},
    {"type":"set","operation":"add","value":[1]},{"type":"richtext","operation":"format","start":"a"}]"#;

fn among_nodes() -> (Arc<Context>, Published) {
    let published = Published::default();
    let sent = published.clone();
    let link = BusLink {
        node: "fuzzed".into(),
        epoch: 1_000,
        submit: Box::new(move |request| {
            if let BusRequest::Publish { envelope, .. }
            | BusRequest::Ask { envelope, .. }
            | BusRequest::Announce { envelope } = request
            {
                sent.lock().expect("nobody panicked").push(envelope);
            }
            Ok(())
        }),
        health: Box::new(BusFacts::default),
        is_connected: Box::new(|| true),
    };
    let variables = [("SYNCKIT_AUTH_REQUIRED", "false"), ("REDIS_URL", "redis://fuzzed")];
    (context_among(Some(link), None, &variables, 1), published)
}

fn says(world: &mut World, kind: &str, document: &str, members: &str) {
    let text = format!(r#"{{"type":"{kind}","id":"m","timestamp":1,"documentId":"{document}"{members}}}"#);
    world.receive(0, &text_frame(&text));
    world.turn();
}

fn hears(world: &mut World, event: BusEvent) {
    let now = world.now;
    world.shard.mail(now, ShardId::EXTERNAL, Mail::Bus(vec![event]));
    world.turn();
}

fn arrives(world: &mut World, document: &str, line: &[u8]) {
    once(&SAID_AGAIN, line, || {
        if let Ok(envelope) = decode(line) {
            said_again(&envelope);
        }
    });
    let envelope = Bytes::copy_from_slice(line);
    let announced = envelope.clone();
    hears(
        world,
        BusEvent::Received {
            document: document.into(),
            envelope,
        },
    );
    hears(world, BusEvent::Announced { envelope: announced });
}

/// What was understood can be written, and what is read then is written the same way.
fn said_again(envelope: &Envelope) {
    if matches!(envelope.body, Body::Part(_)) || envelope.node.bytes().any(|byte| !byte.is_ascii_alphanumeric()) {
        return;
    }
    let (epoch, sequence) = (envelope.epoch, envelope.sequence);
    let write = |body: &Body| whole(Encoder::new(&envelope.node).encode("doc", epoch, sequence, body));
    let first = write(&envelope.body);
    let again = decode_whole(&first).unwrap_or_else(|refused| panic!("{refused}: {}", first.escape_ascii()));
    assert_eq!(
        (again.epoch, again.sequence, &again.node),
        (epoch, sequence, &envelope.node)
    );
    let second = write(&again.body);
    assert!(
        first == second,
        "{} and {}",
        first.escape_ascii(),
        second.escape_ascii()
    );
}

/// The message that an envelope or several are.
fn whole(envelopes: Vec<Bytes>) -> Vec<u8> {
    let only = <[Bytes; 1]>::try_from(envelopes);
    only.unwrap_or_else(|parts| panic!("{} envelopes for a short message", parts.len()))[0].to_vec()
}

fn understood(published: &Published) {
    for envelope in std::mem::take(&mut *published.lock().expect("nobody panicked")) {
        once(&UNDERSTOOD, &envelope, || {
            if let Err(refused) = decode(&envelope) {
                panic!("nobody understands this, {refused}: {}", envelope.escape_ascii());
            }
        });
    }
}

/// What depends on these bytes alone is checked when they are new: a shard that lives for two minutes says the same each
/// time, and most lines of an input were there before it was changed.
fn once(checked: &'static LocalKey<RefCell<Checked>>, bytes: &[u8], check: impl FnOnce()) {
    if checked.with_borrow(|known| known.contains(bytes)) {
        return;
    }
    check();
    checked.with_borrow_mut(|known| {
        if known.len() == CHECKED_MAX {
            known.clear();
        }
        known.insert(bytes.into());
    });
}
