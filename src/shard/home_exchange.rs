//! The home side keeps nodes equal: digests, questions and full answers (docs/protocol.md §19.3).
//!
//! Bounds: one question and one answer per document and [`EXCHANGE_US`]; answers of several nodes are spread, and one that
//! says what this node would say makes it keep silent. A document that does not change is announced with a slow sweep only.

use super::cluster::{
    ALIVE_US, ANNOUNCED_TIMES, BACKLOG_STEP, EXCHANGE_US, GAP_PATIENCE_US, NEWCOMER_US, NODES_TICK_US,
    PEER_FORGOTTEN_US, PRESENCE_AGAIN_US, QUIET_US, ROWS_MAX, STORE_FOR_OTHERS_US, SWEEP_ROUND_US, SWEEP_STEP,
    SWEEP_STEP_HURRIED,
};
use super::library::Shelf;
use super::{Due, Shard};
use crate::document::counters::Total;
use crate::mutation::Mutation;
use crate::peers::{Body, Digest, DigestRow, State};

/// Questions about a gap until it is taken for good.
const QUESTIONS_MAX: u8 = 6;

impl Shard {
    // ---- questions and answers ----

    /// Asks a node (0: all) for everything it knows of a document, unless what is missing comes before.
    pub(super) fn ask_later(&mut self, place: u32, node: u64, in_us: u64, forced: bool) {
        let now_us = self.now.mono_us;
        let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) else {
            return;
        };
        if shared.ask_us == 0 {
            (shared.ask_us, shared.ask, shared.ask_forced) = (now_us + in_us, node, forced);
        } else {
            if shared.ask != node {
                shared.ask = 0;
            }
            shared.ask_forced |= forced;
            if forced {
                // Whoever differs is there to answer, however long others have not been.
                shared.questions = 0;
                shared.ask_us = shared.ask_us.min(now_us + in_us);
            }
        }
        self.schedule_exchange(place);
    }

    /// Changes by other nodes have come in.
    pub(super) fn changed_elsewhere(&mut self, place: u32) {
        self.content_changed(place);
        if self.context.storage.is_none() {
            return;
        }
        let spread_us = self.cluster.as_deref_mut().map_or(0, |cluster| cluster.spread_us());
        let due_us = self.now.mono_us + STORE_FOR_OTHERS_US + 4 * spread_us;
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut())
            && shared.store_us == 0
        {
            shared.store_us = due_us;
            self.schedule_exchange(place);
        }
    }

    pub(super) fn schedule_exchange(&mut self, place: u32) {
        let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) else {
            return;
        };
        let due = [shared.ask_us, shared.tell_us, shared.store_us].into_iter();
        let Some(due_us) = due.filter(|due_us| *due_us > 0).min() else {
            return;
        };
        if due_us < shared.scheduled_us {
            shared.scheduled_us = due_us;
            self.deadlines.at(due_us, Due::Exchange(place));
        }
    }

    /// Something may be due about a document.
    pub(super) fn exchange_due(&mut self, place: u32) {
        let now_us = self.now.mono_us;
        let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) else {
            return;
        };
        shared.scheduled_us = u64::MAX;
        let is_due = |due_us: u64| due_us > 0 && due_us <= now_us;
        let (asks, tells, stores) = (is_due(shared.ask_us), is_due(shared.tell_us), is_due(shared.store_us));
        if stores {
            self.changed_for_others(place);
        }
        if tells {
            self.tell(place);
        }
        if asks {
            self.ask_now(place);
        }
        self.schedule_exchange(place);
    }

    /// Stores what other nodes have changed, in case theirs cannot.
    fn changed_for_others(&mut self, place: u32) {
        let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) else {
            return;
        };
        shared.store_us = 0;
        let changed_us = shared.changed_us;
        let (digest, announce) = (shared.digest, shared.announce);
        self.changed(place);
        // Storing changes nothing.
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) {
            (shared.changed_us, shared.digest, shared.announce) = (changed_us, digest, announce.max(1));
        }
    }

    fn ask_now(&mut self, place: u32) {
        let now_us = self.now.mono_us;
        let mut digest = self.digest_of(place);
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        let Some(shelf) = self.library.at(place) else { return };
        let has_counters = shelf.counters.is_some();
        let Some(shared) = shelf.shared.as_mut() else { return };
        let mut given_up = false;
        shared.ask_us = 0;
        let has_gap = shared.heard.iter().any(|heard| heard.has_gap());
        if has_gap && has_counters {
            // What is missing may be which operations were counted, which the digest does not tell: nobody has this one.
            digest = !digest;
        }
        if !has_gap && !shared.ask_forced {
            shared.questions = 0;
            return;
        }
        if shared.asked_us + EXCHANGE_US > now_us && shared.asked_us > 0 {
            shared.ask_us = shared.asked_us + EXCHANGE_US;
            return;
        }
        shared.asked_us = now_us;
        shared.ask_forced = false;
        shared.questions += 1;
        let of = cluster.nodes.get(&shared.ask).filter(|_| shared.questions < 3);
        let of = of.map(|peer| peer.name.clone());
        if has_gap && shared.questions > QUESTIONS_MAX {
            // Whoever could answer is gone, or digests say it.
            shared.questions = 0;
            shared.heard.iter_mut().for_each(|heard| heard.give_up());
            given_up = true;
        } else if has_gap {
            shared.ask_us = now_us + (EXCHANGE_US << shared.questions.min(4));
        }
        if given_up {
            self.announce_later(place);
        }
        self.metrics.nodes.questions += 1;
        self.publish(place, &Body::Want { of, digest });
    }

    /// Another node asks what is known of a document.
    pub(super) fn wanted(&mut self, place: u32, of: Option<&str>, digest: u64) {
        let now_us = self.now.mono_us;
        let own = self
            .context
            .bus
            .as_ref()
            .map(|bus| bus.node.clone())
            .unwrap_or_default();
        if of.is_some_and(|of| of != &*own) {
            return;
        }
        self.publish_all_presence(place);
        let ours = self.digest_of(place);
        if ours == digest {
            if of.is_some()
                && let Some(row) = self.row(place, false)
            {
                self.announce(&Body::Digests(vec![row]));
            }
            return;
        }
        let spread_us = self.cluster.as_deref_mut().map_or(0, |cluster| cluster.spread_us());
        let in_us = if of.is_some() { 0 } else { spread_us / 2 };
        if let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut())
            && (shared.tell_us == 0 || shared.tell_us > now_us + in_us)
        {
            shared.tell_us = (now_us + in_us).max(1);
            self.schedule_exchange(place);
        }
    }

    /// Tells the others everything.
    fn tell(&mut self, place: u32) {
        let now = self.now;
        let now_us = now.mono_us;
        let digest = self.digest_of(place);
        let Some(shelf) = self.library.at(place) else { return };
        let Some(shared) = &mut shelf.shared else { return };
        if shared.told_us > 0 && shared.told_us + EXCHANGE_US > now_us {
            shared.tell_us = shared.told_us + EXCHANGE_US;
            return;
        }
        (shared.tell_us, shared.told_us) = (0, now_us);
        let counted = shared.counted.iter().copied().collect();
        let document = shelf.saved(now);
        self.metrics.nodes.answers += 1;
        self.publish(
            place,
            &Body::State(Box::new(State {
                document,
                counted,
                digest,
            })),
        );
    }

    // ---- digests ----

    /// The digest of a document, kept until it changes.
    pub(super) fn digest_of(&mut self, place: u32) -> u64 {
        let Some(shelf) = self.library.at(place) else { return 0 };
        if let Some(digest) = shelf.shared.as_ref().and_then(|shared| shared.digest) {
            return digest;
        }
        let digest = shelf.digest();
        if let Some(shared) = &mut shelf.shared {
            shared.digest = Some(digest);
        }
        digest
    }

    /// What is announced of a document.
    fn row(&mut self, place: u32, presence: bool) -> Option<DigestRow> {
        let now_us = self.now.mono_us;
        let changed_us = self.library.at(place)?.shared.as_ref()?.changed_us;
        let digest = (changed_us + QUIET_US <= now_us).then(|| self.digest_of(place));
        let shelf = self.library.at(place)?;
        let shared = shelf.shared.as_ref()?;
        Some(DigestRow {
            document: shelf.id.clone(),
            digest,
            epoch: shared.epoch,
            sequence: shared.sequence,
            presence: presence.then(|| shelf.own_presence_digest()),
        })
    }

    fn announce_rows(&mut self, places: &[u32], presence: bool) -> bool {
        let mut left = true;
        for chunk in places.chunks(ROWS_MAX) {
            let rows: Vec<DigestRow> = chunk.iter().filter_map(|place| self.row(*place, presence)).collect();
            if !rows.is_empty() && !Mutation::ForgetDigests.is_on() {
                self.metrics.nodes.digests += rows.len() as u64;
                left &= self.announce(&Body::Digests(rows));
            }
        }
        left
    }

    /// Periodic work among nodes.
    pub(super) fn nodes_due(&mut self) {
        let now_us = self.now.mono_us;
        self.deadlines.at(now_us + NODES_TICK_US, Due::Nodes);
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.newcomer_until_us.get_or_insert(now_us + NEWCOMER_US);
        }
        self.give_up_assemblies();
        self.submit_backlog();
        if !self.is_connected() {
            return;
        }
        let interval_us = self.context.config.cluster.digest_interval_ms.saturating_mul(1000);
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        cluster
            .nodes
            .retain(|_, peer| peer.heard_us + PEER_FORGOTTEN_US > now_us);
        let alive = cluster.alive_us == 0 || cluster.alive_us + ALIVE_US <= now_us;
        let digests = cluster.digests_us == 0 || cluster.digests_us + interval_us <= now_us + NODES_TICK_US;
        // Others believe for so long what they were told of presence.
        let again_us = (self.context.config.sync.awareness_timeout_ms.saturating_mul(1000) / 3).min(PRESENCE_AGAIN_US);
        let presence = cluster.presence_us == 0 || cluster.presence_us + again_us <= now_us;
        if alive {
            cluster.alive_us = now_us.max(1);
            if self.id.index() == 0 {
                self.announce(&Body::Node { leaves: false });
            }
        }
        if digests {
            self.announce_active();
        }
        if presence {
            self.announce_presence();
        }
        self.announce_sweep();
        self.reread_rows();
    }

    fn submit_backlog(&mut self) {
        for _ in 0..BACKLOG_STEP {
            let request = self
                .cluster
                .as_deref_mut()
                .and_then(|cluster| cluster.backlog.pop_front());
            let Some(request) = request else { return };
            if let (Err(request), Some(cluster)) = (self.submit(request), self.cluster.as_deref_mut()) {
                return cluster.backlog.push_front(request);
            }
        }
    }

    /// Announces what changed lately.
    fn announce_active(&mut self) {
        let now_us = self.now.mono_us;
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        cluster.digests_us = now_us.max(1);
        let active = std::mem::take(&mut cluster.active);
        let mut kept = Vec::new();
        let left = self.announce_rows(&active, false);
        for place in active {
            let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) else {
                continue;
            };
            shared.announce = shared.announce.saturating_sub(u8::from(left));
            shared.listed = shared.announce > 0;
            if shared.listed {
                kept.push(place);
            }
        }
        if let Some(cluster) = self.cluster.as_deref_mut() {
            cluster.active.append(&mut kept);
        }
    }

    /// A document has presence entries this node answers for.
    pub(super) fn list_present(&mut self, place: u32) {
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) else {
            return;
        };
        if std::mem::replace(&mut shared.present, ANNOUNCED_TIMES) == 0 {
            cluster.present.push(place);
        }
    }

    /// Says again for whom this node answers, and for a while that it answers for nobody any more.
    fn announce_presence(&mut self) {
        let now_us = self.now.mono_us;
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        cluster.presence_us = now_us.max(1);
        let present = std::mem::take(&mut cluster.present);
        self.announce_rows(&present, true);
        for place in present {
            let Some(shelf) = self.library.at(place) else { continue };
            let has_own = shelf.presence.as_ref().is_some_and(|presence| presence.has_own());
            let Some(shared) = &mut shelf.shared else { continue };
            shared.present = if has_own {
                ANNOUNCED_TIMES
            } else {
                shared.present.saturating_sub(1)
            };
            if shared.present > 0
                && let Some(cluster) = self.cluster.as_deref_mut()
            {
                cluster.present.push(place);
            }
        }
    }

    /// Announces some documents although nothing happened to them.
    fn announce_sweep(&mut self) {
        let places = self.library.places();
        let Some(cluster) = self.cluster.as_deref_mut().filter(|_| places > 0) else {
            return;
        };
        cluster.sweep_due += places.min(1 << 32) as u64 * NODES_TICK_US;
        let even = (cluster.sweep_due / SWEEP_ROUND_US) as usize;
        cluster.sweep_due %= SWEEP_ROUND_US;
        let step = match cluster.hurried {
            0 => even.min(SWEEP_STEP),
            _ => SWEEP_STEP_HURRIED,
        };
        let step = step.min(places);
        cluster.hurried = cluster.hurried.saturating_sub(step);
        let first = cluster.sweep_next;
        cluster.sweep_next = (first + step) % places;
        let swept: Vec<u32> = (first..first + step).map(|at| (at % places) as u32).collect();
        let mut rows = Vec::new();
        for place in swept {
            if self
                .library
                .at(place)
                .is_some_and(|shelf| shelf.has_content() || shelf.counters.is_some())
            {
                rows.push(place);
            }
        }
        self.announce_rows(&rows, false);
    }

    /// Anything may have been missed, and anything sent may not have left.
    pub(super) fn interrupted(&mut self) {
        let now_us = self.now.mono_us;
        let places = self.library.places();
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        (cluster.hurried, cluster.sweep_next) = (places, 0);
        (cluster.alive_us, cluster.digests_us, cluster.presence_us) = (0, 0, 0);
        cluster.newcomer_until_us = Some(now_us + NEWCOMER_US);
        let active = cluster.active.clone();
        for place in active {
            self.announce_later(place);
        }
        self.ask_about_unasked();
    }

    /// The server stops: other nodes need not wait for what this one answers for, and what was changed elsewhere is
    /// stored while there is time.
    pub(super) fn leave_nodes(&mut self) {
        if self.cluster.is_none() {
            return;
        }
        if self.id.index() == 0 {
            self.announce(&Body::Node { leaves: true });
        }
        let waiting = self.library.iter_mut();
        let waiting = waiting.filter(|(_, shelf)| shelf.shared.as_ref().is_some_and(|shared| shared.store_us > 0));
        let waiting: Vec<u32> = waiting.map(|(place, _)| place).collect();
        for place in waiting {
            self.changed_for_others(place);
        }
    }

    // ---- counters ----

    /// Counter operations that make up for what an account holds more.
    pub(super) fn counter_elements(&mut self, place: u32, totals: &[Total]) -> String {
        let unix_ms = self.now.unix_ms;
        let Some(shelf) = self.library.at(place) else {
            return String::new();
        };
        let mut elements = Vec::new();
        for total in totals {
            for (operation, value) in [("increment", total.increments), ("decrement", total.decrements)] {
                let number = serde_json::Number::from_f64(value).filter(|_| value != 0.0);
                let Some(number) = number else { continue };
                elements.push(format!(
                    "{{\"type\":\"counter\",\"operation\":\"{operation}\",\"value\":{number},\"documentId\":\"{}\",\
                     \"clientId\":\"server\",\"timestamp\":{unix_ms}}}",
                    shelf.id
                ));
            }
        }
        elements.join(",")
    }

    /// Tells the listeners what accounts hold more than before.
    pub(super) fn relay_counted(&mut self, place: u32, totals: &[Total]) {
        let elements = self.counter_elements(place, totals);
        if !elements.is_empty() {
            self.relay_to_all(place, elements.into(), false);
        }
    }
}

impl Shelf {
    /// See [`Digest`].
    fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        self.fields.for_each_live(|record| digest.record(record));
        if let Some(text) = self.text.as_ref().filter(|text| text.state.block_count() > 0) {
            digest.text(&text.state.to_json());
        }
        if let Some(set) = &self.set {
            set.for_each_member(|element| digest.element(element));
        }
        if let Some(counters) = &self.counters {
            digest.counters(&counters.saved());
        }
        digest.value()
    }

    /// Digest of the presence entries this node answers for.
    fn own_presence_digest(&self) -> u64 {
        let mut digest = Digest::default();
        for change in self.presence.iter().flat_map(|presence| presence.answered_for()) {
            digest.presence(
                &change.client_id,
                change.clock,
                change.state.as_deref().unwrap_or_default(),
            );
        }
        digest.value()
    }

    /// The same of those another node answers for, as far as is known here.
    pub(super) fn presence_digest_of(&self, node: u64) -> u64 {
        let mut digest = Digest::default();
        for change in self.presence.iter().flat_map(|presence| presence.of_node(node)) {
            digest.presence(
                &change.client_id,
                change.clock,
                change.state.as_deref().unwrap_or_default(),
            );
        }
        digest.value()
    }
}

/// A gap is not asked about before what is missing had time to come.
const _: () = assert!(GAP_PATIENCE_US < EXCHANGE_US);
