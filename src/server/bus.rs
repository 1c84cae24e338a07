//! The configured Redis that joins this node to others. It may be away: threads connect when it is there.

use super::ServerError;
use crate::cluster::BusLink;
use crate::cluster::redis::{BusSettings, RedisAddress, RedisBus, Running};
use crate::config::ClusterConfig;
use crate::runtime::{Mailer, ShardStats};
use crate::shard::mail::Mail;
use rand::Rng;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// With so many letters in a shard's mailbox nothing more is read from Redis, which keeps it meanwhile.
const MAILBOX_LETTERS_MAX: u64 = 256;

/// The bus, and where it goes.
pub(super) struct Bus {
    /// Where Redis is, without secrets.
    pub place: String,
    /// This node.
    pub node: Arc<str>,
    bus: RedisBus,
}

/// Makes the queues to the bus; `None`: this is the only node.
pub(super) fn open(config: &ClusterConfig, shards: u16) -> Result<Option<Bus>, ServerError> {
    let Some(url) = &config.redis else {
        return Ok(None);
    };
    let address = RedisAddress::parse(&url.0)?;
    let node: Arc<str> = match &config.node_id {
        Some(id) => id.as_str().into(),
        None => format!("{:016x}", rand::rng().random::<u64>()).into(),
    };
    let settings = BusSettings {
        address: Arc::new(address.clone()),
        prefix: config.channel_prefix.as_str().into(),
        node: node.clone(),
        shards,
    };
    Ok(Some(Bus {
        place: address.place(),
        node,
        bus: RedisBus::new(settings)?,
    }))
}

impl Bus {
    /// What shards need of it.
    pub fn link(&self) -> BusLink {
        let epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_micros() as u64);
        self.bus.link(epoch)
    }

    /// Starts its threads.
    pub fn start(self, mailer: Mailer<Mail>, stats: Arc<[ShardStats]>) -> std::io::Result<Running> {
        let deliver = Arc::new(move |shard, events| mailer.send(shard, Mail::Bus(events)));
        let crowded = Arc::new(move || {
            let letters = |stats: &ShardStats| stats.measured().mailbox_letters;
            stats.iter().any(|stats| letters(stats) > MAILBOX_LETTERS_MAX)
        });
        self.bus.start(deliver, crowded)
    }
}
