//! The home side takes in what other nodes say (docs/protocol.md §19.2).
//!
//! Everything is merged, so nothing depends on the order in which it comes or on how often. Two things cannot be merged:
//! formatting and legacy text operations are relayed once, by their place in the sender's sequence; counter operations are
//! what an account holds more than before.

use super::Shard;
use super::cluster::{ASSEMBLIES_MAX, ASSEMBLY_US, Assembly, GAP_PATIENCE_US, QUIET_US};
use super::library::{Shelf, Text};
use super::mail::DocumentId;
use crate::awareness::{Report, Reported};
use crate::cluster::BusEvent;
use crate::document::counters::{SavedCounters, Total};
use crate::json::Raw;
use crate::limits::{ASSEMBLED_BYTES_MAX, ENVELOPE_BYTES_MAX};
use crate::mutation::Mutation;
use crate::peers::{
    Body, Count, CountedOperation, DigestRow, Envelope, News, Operations, Part, PresenceEntry, State, decode,
    decode_whole,
};
use crate::protocol::Fields;
use crate::saved::{SavedDocument, SavedText};
use crate::text::{Incoming, merge};

impl Shard {
    /// Events of the bus.
    pub(super) fn bus_events(&mut self, events: Vec<BusEvent>) {
        if self.cluster.is_none() {
            return;
        }
        for event in events {
            match event {
                BusEvent::Joined { document } => self.bus_joined(&document),
                BusEvent::Received { document, envelope } => {
                    if let Some((node, envelope)) = self.read(&document, &envelope) {
                        self.received_from(&document, node, envelope);
                    }
                }
                BusEvent::Reached {
                    document,
                    nodes,
                    announced,
                } => self.question_reached(&document, nodes, announced),
                BusEvent::Announced { envelope } => {
                    if let Some((node, envelope)) = self.read(&DocumentId::from(""), &envelope) {
                        self.announced(node, envelope);
                    }
                }
                BusEvent::Interrupted => self.interrupted(),
            }
            self.deliver_local();
        }
    }

    /// Reads an envelope; nothing while parts of its message are missing.
    fn read(&mut self, document: &DocumentId, bytes: &[u8]) -> Option<(u64, Envelope)> {
        let envelope = match decode(bytes) {
            Ok(envelope) => envelope,
            Err(refused) => {
                tracing::debug!("an envelope is refused: {refused}");
                self.metrics.nodes.refused += 1;
                return None;
            }
        };
        let now_us = self.now.mono_us;
        let cluster = self.cluster.as_deref_mut()?;
        let is_new = !cluster.nodes.contains_key(&super::cluster::node_number(&envelope.node));
        let node = cluster.heard_of(&envelope.node, now_us);
        if is_new {
            // It should know of this one soon.
            cluster.alive_us = 0;
            self.ask_about_unasked();
        }
        self.metrics.nodes.received(&envelope.body);
        match envelope.body {
            Body::Part(part) => self.assemble(document, node, part).map(|envelope| (node, envelope)),
            _ => Some((node, envelope)),
        }
    }

    /// Adds a part to its message; gives the message when it is complete.
    fn assemble(&mut self, document: &DocumentId, node: u64, part: Part) -> Option<Envelope> {
        let now_us = self.now.mono_us;
        let cluster = self.cluster.as_deref_mut()?;
        let key = (document.clone(), node);
        let bytes = part.data.len();
        let known = cluster
            .assemblies
            .get(&key)
            .map(|assembly| (assembly.message, assembly.parts.len()));
        if known != Some((part.message, part.of as usize)) {
            if let Some(given_up) = cluster.assemblies.remove(&key) {
                cluster.assembled_bytes -= given_up.bytes;
            }
            if cluster.assemblies.len() >= ASSEMBLIES_MAX {
                self.metrics.nodes.refused += 1;
                return None;
            }
            let assembly = Assembly {
                message: part.message,
                parts: vec![None; part.of as usize],
                missing: part.of,
                bytes: 0,
                since_us: now_us,
            };
            cluster.assemblies.insert(key.clone(), assembly);
        }
        if cluster.assembled_bytes + bytes > ASSEMBLED_BYTES_MAX || bytes > ENVELOPE_BYTES_MAX {
            self.metrics.nodes.refused += 1;
            return None;
        }
        let assembly = cluster.assemblies.get_mut(&key)?;
        let place = assembly.parts.get_mut(part.at as usize)?;
        if place.is_some() {
            return None;
        }
        *place = Some(part.data);
        assembly.bytes += bytes;
        assembly.missing -= 1;
        cluster.assembled_bytes += bytes;
        if assembly.missing > 0 {
            return None;
        }
        let assembly = cluster.assemblies.remove(&key)?;
        cluster.assembled_bytes -= assembly.bytes;
        let whole: String = assembly.parts.into_iter().flatten().collect();
        match decode_whole(whole.as_bytes()) {
            Ok(envelope) if !matches!(envelope.body, Body::Part(_)) => Some(envelope),
            _ => {
                self.metrics.nodes.refused += 1;
                None
            }
        }
    }

    /// Gives up messages whose parts do not come.
    pub(super) fn give_up_assemblies(&mut self) {
        let now_us = self.now.mono_us;
        let Some(cluster) = self.cluster.as_deref_mut() else {
            return;
        };
        let bytes = &mut cluster.assembled_bytes;
        cluster.assemblies.retain(|_, assembly| {
            let kept = assembly.since_us + ASSEMBLY_US > now_us;
            *bytes -= if kept { 0 } else { assembly.bytes };
            kept
        });
    }

    fn received_from(&mut self, document: &DocumentId, node: u64, envelope: Envelope) {
        match self.library.find(document) {
            Some(place) => self.take(place, node, envelope),
            None => self.keep_for_loading(document, node, envelope),
        }
    }

    /// Takes in what a node says about a document.
    pub(super) fn take(&mut self, place: u32, node: u64, envelope: Envelope) {
        let Envelope {
            epoch, sequence, body, ..
        } = envelope;
        let mut news = News::Fresh;
        let Some(cluster) = self.cluster.as_deref() else { return };
        let Some(shared) = self.library.at(place).and_then(|shelf| shelf.shared.as_mut()) else {
            return;
        };
        if body.is_change() && epoch > 0 {
            let heard = shared.heard(node, epoch, &cluster.nodes);
            news = heard.change(epoch, sequence);
            if heard.has_gap() {
                self.metrics.nodes.gaps += 1;
                self.ask_later(place, node, GAP_PATIENCE_US, false);
            }
        }
        if news == News::Repeated {
            self.metrics.nodes.repeated += 1;
        }
        let changed = match body {
            Body::Fields { clock, records } => {
                let other = SavedDocument {
                    clock,
                    records,
                    ..SavedDocument::default()
                };
                self.merge_document(place, other)
            }
            Body::Text { clock, text } => {
                let other = SavedDocument {
                    clock,
                    text: Some(text),
                    ..SavedDocument::default()
                };
                self.merge_document(place, other)
            }
            Body::Operations(operations) => self.take_operations(place, node, *operations, news),
            Body::Presence { entries, whole } => {
                self.take_presence(place, node, &entries, whole);
                false
            }
            Body::Want { of, digest } => {
                self.wanted(place, of.as_deref(), digest);
                false
            }
            Body::State(state) => return self.take_state(place, node, (epoch, sequence), *state),
            Body::Part(_) | Body::Node { .. } | Body::Digests(_) => false,
        };
        if changed {
            self.changed_elsewhere(place);
        }
    }

    fn take_operations(&mut self, place: u32, node: u64, operations: Operations, news: News) -> bool {
        if news == News::Fresh {
            for (elements, is_text) in [(operations.relayed, false), (operations.relayed_text, true)] {
                if !elements.is_empty() {
                    self.relay_to_all(place, elements.into(), is_text);
                }
            }
        }
        let other = SavedDocument {
            clock: operations.clock,
            set: operations.set,
            ..SavedDocument::default()
        };
        let mut changed = self.merge_document(place, other);
        if let Some(count) = operations.count {
            changed |= self.take_count(place, &count);
            self.take_counted(place, node, &count.counted);
        }
        changed
    }

    /// What an account of another node holds more than before is counted here.
    fn take_count(&mut self, place: u32, count: &Count) -> bool {
        let Some(shelf) = self.library.at(place) else {
            return false;
        };
        let before = shelf.counters.get_or_insert_default().account(&count.account);
        let saved = SavedCounters {
            totals: vec![(count.account.clone(), count.total)],
            ..SavedCounters::default()
        };
        let more = shelf.count_others(&saved);
        if more.is_empty() {
            return false;
        }
        // If nothing was missed, listeners get the operations as they were written.
        let mut expected = before;
        let whole = format!("[{}]", count.elements);
        for element in Raw::from_validated(&whole).elements().into_iter().flatten() {
            let fields = Fields::read(element);
            let value = fields.value.and_then(Raw::number).unwrap_or(0.0);
            let decrement = fields.operation.and_then(Raw::string).as_deref() == Some("decrement");
            expected.count(value, decrement);
        }
        if expected == count.total && !count.elements.is_empty() {
            self.relay_to_all(place, count.elements.clone().into(), false);
        } else {
            self.relay_counted(place, &more);
        }
        true
    }

    /// Operations that were counted elsewhere are not counted again. If they were counted here as well, the greater of the
    /// two nodes takes them back.
    fn take_counted(&mut self, place: u32, node: u64, counted: &[CountedOperation]) {
        let now_ms = self.now.mono_ms();
        let Some(own) = self
            .context
            .bus
            .as_ref()
            .map(|bus| super::cluster::node_number(&bus.node))
        else {
            return;
        };
        let Some(shelf) = self.library.at(place) else { return };
        let mut taken = Total::default();
        for counted in counted {
            let counters = shelf.counters.get_or_insert_default();
            let twice = counters.counted_elsewhere(now_ms, counted.fingerprint, node < own);
            if twice && node < own {
                taken.increments += counted.total.increments;
                taken.decrements += counted.total.decrements;
            }
        }
        if taken != Total::default() {
            self.take_back(place, taken);
        }
    }

    fn take_presence(&mut self, place: u32, node: u64, entries: &[PresenceEntry], whole: bool) {
        let until_us = self.presence_until_us();
        for entry in entries {
            let Some(shelf) = self.library.at(place) else { return };
            let report = Report {
                node,
                client_id: &entry.client_id,
                state: entry.state.as_ref(),
                clock: entry.clock,
                repeated: whole,
            };
            match shelf.presence.get_or_insert_default().report(report, until_us) {
                Reported::Known => {}
                Reported::Changed(change) => self.tell_presence(place, change, None),
                Reported::Corrected(change) => self.publish_presence(place, &change),
            }
        }
        if whole {
            self.presence_left_elsewhere(place, node, |client| {
                entries.iter().any(|entry| &*entry.client_id == client)
            });
        }
        let presence = self.library.at(place).and_then(|shelf| shelf.presence.as_ref());
        if presence.is_some_and(|presence| presence.has_orphans()) {
            self.watch_presence_of(place);
        }
    }

    /// Entries a node no longer answers for.
    pub(super) fn presence_left_elsewhere(&mut self, place: u32, node: u64, kept: impl Fn(&str) -> bool) {
        let Some(presence) = self.library.at(place).and_then(|shelf| shelf.presence.as_mut()) else {
            return;
        };
        for change in presence.left_elsewhere(node, kept) {
            self.tell_presence(place, change, None);
        }
    }

    /// Until when what another node said of presence holds.
    fn presence_until_us(&self) -> u64 {
        let timeout_us = self.context.config.sync.awareness_timeout_ms.saturating_mul(1000);
        match Mutation::KeepPresenceOfDeadNodes.is_on() {
            true => u64::MAX,
            false => self.now.mono_us.saturating_add(timeout_us),
        }
    }

    fn take_state(&mut self, place: u32, node: u64, (epoch, sequence): (u64, u64), state: State) {
        let now_us = self.now.mono_us;
        let was_quiet = self.is_quiet(place);
        let changed = self.merge_document(place, state.document);
        self.take_counted(place, node, &state.counted);
        if changed {
            self.metrics.nodes.repaired += 1;
            self.changed_elsewhere(place);
        }
        let digest = self.digest_of(place);
        let spread_us = self.cluster.as_deref_mut().map_or(0, |cluster| cluster.spread_us());
        let Some(shelf) = self.library.at(place) else { return };
        let Some(shared) = shelf.shared.as_mut() else { return };
        if let Some(cluster) = self.cluster.as_deref().filter(|_| epoch > 0) {
            shared.heard(node, epoch, &cluster.nodes).settle(epoch, sequence);
        }
        match shared.heard.iter().find(|heard| heard.has_gap()) {
            // What is missing still, another node has said; this one need not know it.
            Some(missing) if shared.ask == node => shared.ask = missing.node,
            Some(_) => {}
            None => {
                shared.questions = 0;
                if shared.ask == node || shared.ask == 0 {
                    shared.ask_us = 0;
                }
            }
        }
        if digest == state.digest {
            // Everybody who heard it has what this node would say, but for what it counted.
            if shared.counted.is_empty() {
                shared.tell_us = 0;
            }
        } else if was_quiet && shared.tell_us == 0 {
            shared.tell_us = now_us + spread_us;
        }
        self.schedule_exchange(place);
    }

    /// An envelope for all shards.
    fn announced(&mut self, node: u64, envelope: Envelope) {
        match envelope.body {
            Body::Digests(rows) => {
                for row in rows {
                    self.compare(node, &row);
                }
            }
            Body::Node { leaves: false } => {
                if let Some(cluster) = self.cluster.as_deref_mut() {
                    cluster.lives(node, envelope.epoch);
                }
            }
            Body::Node { leaves: true } => {
                let present = self.library.iter_mut();
                let present = present.filter(|(_, shelf)| shelf.presence.is_some());
                let places: Vec<u32> = present.map(|(place, _)| place).collect();
                for place in places {
                    self.presence_left_elsewhere(place, node, |_| false);
                }
                if let Some(cluster) = self.cluster.as_deref_mut() {
                    cluster.nodes.remove(&node);
                }
            }
            _ => {}
        }
    }

    /// Compares what another node says it holds.
    fn compare(&mut self, node: u64, row: &DigestRow) {
        let Some(place) = self.library.find(&row.document) else {
            return;
        };
        let until_us = self.presence_until_us();
        let quiet = self.is_quiet(place);
        let digest = row
            .digest
            .filter(|_| quiet)
            .map(|theirs| (theirs, self.digest_of(place)));
        let Some(shelf) = self.library.at(place) else { return };
        let theirs = shelf.presence_digest_of(node);
        let mut differs = false;
        match row.presence {
            Some(presence) if presence == theirs => {
                if let Some(presence) = &mut shelf.presence {
                    presence.refresh(node, until_us);
                }
            }
            Some(_) => differs = true,
            None => {}
        }
        let (Some(shared), Some(cluster)) = (&mut shelf.shared, self.cluster.as_deref()) else {
            return;
        };
        let heard = shared.heard(node, row.epoch, &cluster.nodes);
        match digest {
            // Accounts may have come from others, but which operations are in them only the node itself says.
            Some((theirs, ours)) if theirs == ours && shelf.counters.is_some() => heard.expect(row.epoch, row.sequence),
            Some((theirs, ours)) if theirs == ours => heard.settle(row.epoch, row.sequence),
            Some(_) => {
                heard.expect(row.epoch, row.sequence);
                differs = true;
            }
            None => heard.expect(row.epoch, row.sequence),
        }
        let has_gap = heard.has_gap();
        if differs {
            self.metrics.nodes.mismatches += 1;
            let spread_us = self.cluster.as_deref_mut().map_or(0, |cluster| cluster.spread_us());
            self.ask_later(place, node, spread_us, true);
        } else if has_gap {
            self.metrics.nodes.gaps += 1;
            self.ask_later(place, node, GAP_PATIENCE_US, false);
        }
    }

    /// Whether nothing has changed for a moment.
    pub(super) fn is_quiet(&mut self, place: u32) -> bool {
        let now_us = self.now.mono_us;
        let shared = self.library.at(place).and_then(|shelf| shelf.shared.as_ref());
        shared.is_some_and(|shared| shared.changed_us + QUIET_US <= now_us)
    }
}

impl Shelf {
    /// Merges a text of another server. Returns whether that changed it.
    pub(super) fn merge_text(&mut self, other: SavedText) -> bool {
        let Some(text) = self.text.as_mut() else {
            self.text = Some(Box::new(Text {
                state: other.state,
                timestamp: other.timestamp,
                relay_pending: true,
                ..Text::default()
            }));
            return true;
        };
        text.timestamp = text.timestamp.max(other.timestamp);
        let mut merged = merge(Some(&text.state), &Incoming::from(&other.state));
        if merged.collisions > 0 && other.state.to_json() < text.state.to_json() {
            // Where both contradict each other everybody must choose alike.
            merged = merge(Some(&other.state), &Incoming::from(&text.state));
            merged.changed = merged.state.to_json() != text.state.to_json();
        }
        if !merged.changed {
            return false;
        }
        text.state = merged.state;
        text.encoded = None;
        text.relay_pending = true;
        text.current.clear();
        true
    }

    /// Merges counter accounts; gives what they hold more than before, among several nodes.
    pub(super) fn count_others(&mut self, saved: &SavedCounters) -> Vec<Total> {
        let counters = self.counters.get_or_insert_default();
        let before: Vec<Total> = match &self.shared {
            Some(_) => saved
                .totals
                .iter()
                .map(|(account, _)| counters.account(account))
                .collect(),
            None => Vec::new(),
        };
        counters.merge(saved);
        let mut more = Vec::new();
        for ((account, _), before) in saved.totals.iter().zip(before) {
            let after = counters.account(account);
            let total = Total {
                increments: after.increments - before.increments,
                decrements: after.decrements - before.decrements,
            };
            if total != Total::default() {
                more.push(total);
            }
        }
        more
    }
}
