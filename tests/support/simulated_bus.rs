//! A bus between simulated nodes that does what a bus may do: it delays, loses, repeats and reorders envelopes, refuses
//! them, and is away for some nodes and not for others.

use super::mesh::{Dice, World};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use synckit_server::cluster::{BusEvent, BusFacts, BusLink, BusRequest};
use synckit_server::ids::ShardId;

/// Requests of one node that may wait.
const QUEUE_MAX: usize = 64;

/// What goes wrong, in percent of the envelopes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lost: usize,
    pub repeated: usize,
    pub late: usize,
}

struct Station {
    queue: Arc<Mutex<VecDeque<BusRequest>>>,
    connected: Arc<AtomicBool>,
    away_until_us: u64,
    /// The queue takes nothing, although the node is connected.
    full: Arc<AtomicBool>,
    full_until_us: u64,
    joined: BTreeMap<Arc<str>, ShardId>,
    epoch: u64,
}

struct Flight {
    due_us: u64,
    to: usize,
    shard: ShardId,
    event: BusEvent,
    /// What was sent before the node went away does not arrive.
    epoch: u64,
}

pub struct SimulatedBus {
    stations: Vec<Station>,
    flights: Vec<Flight>,
    pub faults: Faults,
    /// Nothing that the first node says reaches the second, until then, and neither is told.
    walls: Vec<(usize, usize, u64)>,
    /// A node that starts again has the name it had.
    pub keeps_names: bool,
    shards: u16,
    pub delivered: usize,
    pub lost: usize,
    pub repeated: usize,
    /// Envelopes lost between nodes that could not hear each other.
    pub walled: usize,
    refused: Arc<AtomicUsize>,
}

impl SimulatedBus {
    pub fn new(nodes: usize, shards: u16) -> Self {
        let station = |_| Station {
            queue: Arc::default(),
            connected: Arc::new(AtomicBool::new(true)),
            away_until_us: 0,
            full: Arc::default(),
            full_until_us: 0,
            joined: BTreeMap::new(),
            epoch: 0,
        };
        Self {
            stations: (0..nodes).map(station).collect(),
            flights: Vec::new(),
            faults: Faults::default(),
            walls: Vec::new(),
            keeps_names: false,
            shards,
            delivered: 0,
            lost: 0,
            repeated: 0,
            walled: 0,
            refused: Arc::default(),
        }
    }

    /// The link of a node that starts; what an earlier life of it had joined is forgotten.
    pub fn link(&mut self, node: usize, life: u64) -> BusLink {
        let station = &mut self.stations[node];
        station.queue = Arc::default();
        station.connected = Arc::new(AtomicBool::new(false));
        station.away_until_us = 0;
        station.full = Arc::default();
        station.joined.clear();
        station.epoch += 1;
        let (queue, connected, full) = (station.queue.clone(), station.connected.clone(), station.full.clone());
        let (submitting, refused) = (connected.clone(), self.refused.clone());
        let name = match self.keeps_names {
            true => format!("node-{node}"),
            false => format!("node-{node}-{life}"),
        };
        BusLink {
            node: name.into(),
            epoch: 1_000_000 + life * 1_000_000,
            submit: Box::new(move |request| {
                let mut queue = queue.lock().unwrap();
                let is_envelope = !matches!(request, BusRequest::Join { .. } | BusRequest::Leave { .. });
                let is_full = full.load(Ordering::Relaxed) || queue.len() >= QUEUE_MAX;
                if is_full || is_envelope && !submitting.load(Ordering::Relaxed) {
                    refused.fetch_add(usize::from(is_full), Ordering::Relaxed);
                    return Err(request);
                }
                queue.push_back(request);
                Ok(())
            }),
            health: Box::new(BusFacts::default),
            is_connected: Box::new(move || connected.load(Ordering::Relaxed)),
        }
    }

    /// A node loses its connection, with everything under way.
    pub fn interrupt(&mut self, node: usize, until_us: u64) {
        let station = &mut self.stations[node];
        station.connected.store(false, Ordering::Relaxed);
        station.away_until_us = until_us;
        station.epoch += 1;
        let mut queue = station.queue.lock().unwrap();
        queue.retain(|request| matches!(request, BusRequest::Join { .. } | BusRequest::Leave { .. }));
    }

    /// What one node says does not reach another for a while, and nobody notices.
    pub fn part(&mut self, from: usize, to: usize, until_us: u64) {
        self.walls.push((from, to, until_us));
    }

    /// Nothing goes wrong from now on.
    pub fn mend(&mut self) {
        self.faults = Faults::default();
        self.walls.clear();
    }

    /// Whether a node is told what is published about a document.
    pub fn has_joined(&self, node: usize, document: &str) -> bool {
        self.stations[node].joined.contains_key(document)
    }

    /// What a node hands over is refused for a while, as by a queue that a stalled connection does not empty.
    pub fn refuse(&mut self, node: usize, until_us: u64) {
        let station = &mut self.stations[node];
        station.full.store(true, Ordering::Relaxed);
        station.full_until_us = until_us;
    }

    /// Requests that a full queue did not take.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn next_us(&self) -> Option<u64> {
        let away = self
            .stations
            .iter()
            .filter(|station| !station.connected.load(Ordering::Relaxed));
        let away = away.map(|station| station.away_until_us);
        let full = self
            .stations
            .iter()
            .filter(|station| station.full.load(Ordering::Relaxed));
        let full = full.map(|station| station.full_until_us);
        let flights = self.flights.iter().map(|flight| flight.due_us);
        flights.chain(away).chain(full).min()
    }

    fn fly(&mut self, now_us: u64, dice: &mut Dice, to: usize, shard: ShardId, event: BusEvent) {
        let delay = if dice.percent(self.faults.late) { 300_000 } else { 2_000 };
        let epoch = self.stations[to].epoch;
        let due_us = now_us + dice.below(delay) as u64;
        self.flights.push(Flight {
            due_us,
            to,
            shard,
            event,
            epoch,
        });
    }

    fn send(&mut self, now_us: u64, dice: &mut Dice, (from, to): (usize, usize), shard: ShardId, event: &BusEvent) {
        let between = |wall: &(usize, usize, u64)| (wall.0, wall.1) == (from, to) && wall.2 > now_us;
        if self.walls.iter().any(between) {
            self.walled += 1;
            return;
        }
        if dice.percent(self.faults.lost) {
            self.lost += 1;
            return;
        }
        self.fly(now_us, dice, to, shard, event.clone());
        if dice.percent(self.faults.repeated) {
            self.repeated += 1;
            self.fly(now_us, dice, to, shard, event.clone());
        }
    }

    /// Does what is due.
    pub fn step(&mut self, now_us: u64, dice: &mut Dice, worlds: &mut [World]) {
        for node in 0..self.stations.len() {
            self.reconnect(now_us, dice, node);
            if self.stations[node].full_until_us <= now_us {
                self.stations[node].full.store(false, Ordering::Relaxed);
            }
            if self.stations[node].connected.load(Ordering::Relaxed) && dice.percent(70) {
                self.drain(now_us, dice, node);
            }
        }
        // Without faults the order of what is due at once is kept.
        let mut due: Vec<Flight> = Vec::new();
        let mut at = 0;
        while at < self.flights.len() {
            if self.flights[at].due_us <= now_us {
                due.push(self.flights.remove(at));
            } else {
                at += 1;
            }
        }
        for flight in due {
            if flight.epoch == self.stations[flight.to].epoch {
                self.delivered += 1;
                worlds[flight.to].tell(flight.shard, vec![flight.event]);
            }
        }
    }

    fn reconnect(&mut self, now_us: u64, dice: &mut Dice, node: usize) {
        let station = &mut self.stations[node];
        if station.connected.load(Ordering::Relaxed) || station.away_until_us > now_us {
            return;
        }
        station.connected.store(true, Ordering::Relaxed);
        let joined: Vec<_> = station
            .joined
            .iter()
            .map(|(document, shard)| (document.clone(), *shard))
            .collect();
        for shard in 0..self.shards {
            self.fly(now_us, dice, node, ShardId(shard), BusEvent::Interrupted);
        }
        for (document, shard) in joined {
            self.fly(now_us, dice, node, shard, BusEvent::Joined { document });
        }
    }

    fn drain(&mut self, now_us: u64, dice: &mut Dice, node: usize) {
        loop {
            let request = self.stations[node].queue.lock().unwrap().pop_front();
            let Some(request) = request else { return };
            match request {
                BusRequest::Join { shard, document } => {
                    self.stations[node].joined.insert(document.clone(), shard);
                    self.fly(now_us, dice, node, shard, BusEvent::Joined { document });
                }
                BusRequest::Leave { document } => {
                    self.stations[node].joined.remove(&document);
                }
                BusRequest::Publish { document, envelope } => self.publish(now_us, dice, node, document, envelope),
                BusRequest::Ask {
                    shard,
                    document,
                    envelope,
                } => {
                    let others = self.others(node);
                    let (announced, mut nodes) = (others.len() as u64 + 1, 0);
                    for station in others.into_iter().chain([node]) {
                        nodes += u64::from(self.has_joined(station, &document));
                    }
                    self.publish(now_us, dice, node, document.clone(), envelope);
                    let event = BusEvent::Reached {
                        document,
                        nodes,
                        announced,
                    };
                    self.fly(now_us, dice, node, shard, event);
                }
                BusRequest::Announce { envelope } => {
                    for other in self.others(node) {
                        for shard in 0..self.shards {
                            let envelope = envelope.clone();
                            let event = BusEvent::Announced { envelope };
                            self.send(now_us, dice, (node, other), ShardId(shard), &event);
                        }
                    }
                }
            }
        }
    }

    fn publish(&mut self, now_us: u64, dice: &mut Dice, node: usize, document: Arc<str>, envelope: Bytes) {
        for other in self.others(node) {
            if let Some(shard) = self.stations[other].joined.get(&document).copied() {
                let (document, envelope) = (document.clone(), envelope.clone());
                let event = BusEvent::Received { document, envelope };
                self.send(now_us, dice, (node, other), shard, &event);
            }
        }
    }

    fn others(&self, node: usize) -> Vec<usize> {
        let connected = |other: &usize| *other != node && self.stations[*other].connected.load(Ordering::Relaxed);
        (0..self.stations.len()).filter(connected).collect()
    }
}
