//! What a client of the simulated mesh makes of what arrives: frames, answers it is owed, and its copies of documents, by the
//! rules of its kind.

use super::*;

impl Peer {
    /// Takes in what has arrived. Returns whether there was anything.
    pub fn take_in(&mut self, world: &mut World) -> bool {
        let Some(socket) = self.socket else { return false };
        let entry = &mut world.sockets[socket];
        let arrived = std::mem::take(&mut entry.to_client);
        let closed = entry.closed;
        self.input.extend_from_slice(&arrived);
        if !self.upgraded {
            let end = self.input.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else {
                return self.ended_early(closed);
            };
            assert!(
                self.input.starts_with(b"HTTP/1.1 101"),
                "{}",
                String::from_utf8_lossy(&self.input)
            );
            self.input.drain(..end + 4);
            self.upgraded = true;
            world.send(socket, &std::mem::take(&mut self.waiting));
        }
        while self.socket.is_some()
            && let Some((first, payload)) = self.next_frame()
        {
            self.received(world, first, payload);
        }
        if closed && self.may_be_dropped {
            self.socket = None;
        }
        self.nothing_is_late(world);
        if closed && self.socket.is_some() {
            // Who is being said goodbye to and reads nothing for 2 s is not waited for.
            let read_nothing_us = self.hindered_us - self.hindered_from_us;
            let is_cut = read_nothing_us >= 1_800_000 && self.hindered_us + LOOKING_US_MAX >= world.now.mono_us;
            let in_order = self.input.is_empty() && self.close_sent;
            assert!(
                is_cut || in_order,
                "{}: closed within a frame or without a close frame",
                self.id
            );
            self.socket = None;
        }
        !arrived.is_empty() || closed
    }

    /// No answer may be missing for longer than its bound, counted from when the client reads.
    fn nothing_is_late(&mut self, world: &World) {
        let Some(socket) = self.socket else { return };
        let now_us = world.now.mono_us;
        if world.sockets[socket].stalled_until_us > now_us {
            if self.hindered_us + LOOKING_US_MAX < now_us {
                self.hindered_from_us = now_us;
            }
            self.hindered_us = now_us;
        }
        for debt in &self.owed {
            let bound_us = match debt.what {
                Owed::Pong if self.storage_goes_away => UNREAD_US_MAX,
                Owed::Pong => PONG_US_MAX,
                _ if self.is_throttled => continue,
                _ if self.storage_goes_away => UNREAD_US_MAX + AWAY_US_MAX,
                _ if self.waits_for_storage => STORED_US_MAX,
                _ => ANSWER_US_MAX,
            };
            let since_us = debt.asked_us.max(self.hindered_us);
            assert!(
                since_us + bound_us >= now_us,
                "{} waits for {:?} for {} us: {}",
                self.id,
                debt.what,
                now_us - since_us,
                world.describe(socket)
            );
        }
    }

    fn ended_early(&mut self, closed: bool) -> bool {
        if closed {
            self.socket = None;
        }
        closed
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, &second) = (self.input.first()?, self.input.get(1)?);
        assert_eq!(second & 0x80, 0, "servers do not mask");
        let (head, len) = match second {
            126 => (
                4,
                u16::from_be_bytes(self.input.get(2..4)?.try_into().expect("two")) as usize,
            ),
            127 => (
                10,
                u64::from_be_bytes(self.input.get(2..10)?.try_into().expect("eight")) as usize,
            ),
            len => (2, usize::from(len)),
        };
        let payload = self.input.get(head..head + len)?.to_vec();
        self.input.drain(..head + len);
        Some((first, payload))
    }

    fn received(&mut self, world: &mut World, first: u8, payload: Vec<u8>) {
        match first {
            0x81 => {
                let body = frame::parse_json(&payload);
                let kind = body["type"].as_str().expect("a type").to_owned();
                assert_eq!(self.kind, Kind::Json, "text to {}", self.id);
                self.message(world, &kind, &body);
            }
            0x82 => {
                let (code, _, json) = frame::decode(&payload);
                assert_ne!(self.kind, Kind::Json, "binary to {}", self.id);
                self.message(world, frame::name_of(code), &frame::parse_json(json));
            }
            0x89 => self.frame(world, 0x8a, &payload),
            0x8a => {}
            0x88 => self.close_frame(world, &payload),
            other => panic!("{}: first byte {other:#x}", self.id),
        }
    }

    fn close_frame(&mut self, world: &mut World, payload: &[u8]) {
        if self.close_sent {
            return;
        }
        let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        self.closes.push(code);
        self.frame(world, 0x88, payload);
        if let Some(socket) = self.socket.take() {
            world.finish(socket);
        }
    }

    fn message(&mut self, world: &mut World, kind: &str, body: &Value) {
        let document = body["documentId"]
            .as_str()
            .or(body["docId"].as_str())
            .unwrap_or_default()
            .to_owned();
        match kind {
            "sync_response" => {
                let debt = self.answered(world, &Owed::Sync(document.clone()));
                self.holds_what_was_written_before(world, &document, &debt, body);
                self.synced(&document, body);
            }
            "ack" => {
                let id = body["messageId"].as_str().expect("a message id").to_owned();
                let goodbye = Owed::Goodbye(id.clone());
                let is_goodbye = self.owed.iter().any(|debt| debt.what == goodbye);
                self.answered(world, &if is_goodbye { goodbye } else { Owed::Ack(id.clone()) });
                self.acknowledge(world, &id);
            }
            "pong" => drop(self.answered(world, &Owed::Pong)),
            "delta" => {
                self.delta(&document, body);
                if self.kind == Kind::Json {
                    self.say(world, "ack", json!({"messageId": body["id"]}));
                }
            }
            "delta_batch" => self.batch(&document, body),
            "awareness_state" | "awareness_update" => self.presence(kind, &document, body),
            "error" if self.may_be_refused && is_of_storage(body) => {
                self.refusals += 1;
                self.vanish(world, false);
            }
            other => panic!("{} got {other}: {body}", self.id),
        }
    }

    /// What was asked for has come. Writes to one document are acknowledged in the order of their coming (docs/protocol.md §3).
    fn answered(&mut self, world: &World, answer: &Owed) -> Debt {
        let at = self.owed.iter().position(|owed| owed.what == *answer);
        let at = at.unwrap_or_else(|| panic!("{}: {answer:?} was not asked for; owed {:?}", self.id, self.owed));
        let debt = self.owed.remove(at);
        let is_older = |other: &&Debt| matches!(other.what, Owed::Ack(_)) && other.document == debt.document;
        if let (Owed::Ack(id), Some(other)) = (answer, self.owed[..at].iter().find(is_older)) {
            panic!("{}: {id} is acknowledged before {:?}", self.id, other.what);
        }
        let waited_us = world.now.mono_us.saturating_sub(debt.asked_us.max(self.hindered_us));
        self.waited_us_max = self.waited_us_max.max(waited_us);
        debt
    }

    /// A snapshot has what this connection wrote before it asked, and what anybody had been acknowledged by then
    /// (docs/protocol.md §21).
    fn holds_what_was_written_before(&self, world: &World, document: &str, debt: &Debt, body: &Value) {
        let state = &body["state"];
        let own = self.copies[document].own_writes[..debt.own].iter();
        let own: BTreeMap<&str, &Value> = own.map(|(field, value)| (field.as_str(), value)).collect();
        for (field, value) in own {
            let expected = (!is_tombstone(value)).then_some(value);
            assert!(
                state.get(field) == expected,
                "{} ({:?}): its own write of {field} before its question about {document} is missing",
                self.id,
                self.kind
            );
        }
        let acknowledged = world
            .acknowledged
            .get(document)
            .map_or(&[][..], |all| &all[..debt.acknowledged]);
        for field in acknowledged {
            assert!(
                state.get(field).is_some() || world.deleted.contains(field),
                "{} ({:?}): {field} of {document} was acknowledged before it asked",
                self.id,
                self.kind
            );
        }
    }

    fn acknowledge(&mut self, world: &mut World, id: &str) {
        if let Some(written) = self.unacknowledged.remove(id) {
            let known = world.acknowledged.entry(written.document.clone()).or_default();
            let live = written.unique.iter().filter(|(_, value)| !is_tombstone(value));
            known.extend(live.map(|(field, _)| field.clone()));
            // A newer state of a text contains the older ones.
            let is_text = !written.characters.is_empty();
            self.acknowledged.retain(|older| {
                !is_text || older.characters.is_empty() || older.document != written.document || older.by != written.by
            });
            self.acknowledged.push(written);
        }
        for copy in self
            .copies
            .values_mut()
            .filter(|copy| copy.stand == Stand::Leaving && copy.leaving_ack == id)
        {
            copy.stand = Stand::Out;
        }
        // Whether the newest state is confirmed is all that matters: states contain those before them.
        let owed = |prefix: &str| {
            self.owed
                .iter()
                .any(|owed| matches!(&owed.what, Owed::Ack(id) if id.starts_with(prefix)))
        };
        for (document, copy) in &mut self.copies {
            let prefix = format!("text-{document}-");
            if id.starts_with(&prefix) && !owed(&prefix) {
                copy.text_unconfirmed = false;
            }
        }
    }

    fn synced(&mut self, document: &str, body: &Value) {
        let clock = clock_of(&body["clock"]);
        let (sdk, go) = (self.kind == Kind::Sdk, self.kind == Kind::Goc);
        let own = self.unacknowledged.values().filter(|write| write.document == document);
        let copy = self.copies.get_mut(document).expect("a document of this client");
        if copy.stand == Stand::Asked {
            copy.stand = Stand::In;
        }
        let state = body["state"].as_object().expect("a state");
        if let Some(server) = clock.get("server") {
            let newest = copy.stamps.values().max().copied().unwrap_or_default();
            assert!(
                *server >= newest,
                "a snapshot of {document} at {server} after a stamp of {newest}"
            );
            copy.synced_at = *server;
        }
        if sdk {
            copy.sdk.merge_clock(&clock);
            state
                .iter()
                .for_each(|(field, value)| copy.sdk.receive(field, &value.to_string(), &clock));
        } else {
            copy.fields = state
                .iter()
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect();
            // No echo comes to Go-style clients, so what the snapshot is too old for must stay.
            let own = own.filter(|_| go).flat_map(|write| write.unique.iter().cloned());
            copy.fields.extend(own);
        }
        if let Some(text) = body["textState"].as_str() {
            copy.text.receive(text);
        }
    }

    fn delta(&mut self, document: &str, body: &Value) {
        let (kind, id) = (self.kind, self.id.clone());
        let copy = self
            .copies
            .get_mut(document)
            .unwrap_or_else(|| panic!("{id}: a delta of {document}"));
        assert!(
            matches!(copy.stand, Stand::In | Stand::Leaving),
            "{id} ({kind:?}): a delta of {document} while {:?}: {body}",
            copy.stand
        );
        if kind == Kind::Goc {
            for (field, value) in body["changes"].as_object().expect("changes") {
                put(&mut copy.fields, field, value);
            }
            return;
        }
        let clock = clock_of(&body["clock"]);
        // Deletions that belong to a snapshot have its clock and not their stamps.
        let stamp = clock.get("server").filter(|stamp| **stamp != copy.synced_at);
        if let (Some(field), Some(&stamp)) = (body["field"].as_str(), stamp) {
            let newest = copy.stamps.entry(field.to_owned()).or_default();
            assert!(
                stamp >= *newest,
                "{id}: the stamp of {field} in {document} went from {newest} down to {stamp}"
            );
            *newest = stamp;
        }
        match (kind, body["field"].as_str()) {
            (Kind::Sdk, None) => copy.sdk.merge_clock(&clock),
            (Kind::Sdk, Some(field)) => {
                let typed = copy.typed.as_ref().map(Value::to_string);
                let before = copy.sdk.shown(field).map(str::to_owned);
                copy.sdk.receive(field, &body["value"].to_string(), &clock);
                // An own echo confirms; it never replaces what its author has typed since.
                let is_echo = !clock.contains_key("server");
                if is_echo && field == format!("own-{id}") && before == typed {
                    assert_eq!(
                        copy.sdk.shown(field),
                        typed.as_deref(),
                        "{id}: an echo of {field} in {document}"
                    );
                }
            }
            (_, Some(field)) => put(&mut copy.fields, field, &body["value"]),
            // Whoever subscribes to presence counts as an SDK and is told its own clock.
            (_, None) => {}
        }
    }

    fn batch(&mut self, document: &str, body: &Value) {
        let id = self.id.clone();
        let copy = self.copy(document);
        assert!(
            matches!(copy.stand, Stand::In | Stand::Leaving),
            "{id}: a batch of {document} while {:?}",
            copy.stand
        );
        for element in body["deltas"].as_array().expect("deltas") {
            match element["type"].as_str() {
                Some("text-state") => copy.text.receive(element["state"].as_str().expect("a state")),
                Some("set") => copy.relayed += 1,
                Some("richtext") => copy.formatted.push(element["opId"].as_str().expect("an id").to_owned()),
                Some("counter") => {
                    let value = element["value"].as_f64().expect("a number");
                    let sign = if element["operation"] == "decrement" { -1.0 } else { 1.0 };
                    copy.counted += sign * value;
                    copy.decrements += usize::from(sign < 0.0);
                }
                other => panic!("{id}: an element of type {other:?}"),
            }
        }
    }

    fn presence(&mut self, kind: &str, document: &str, body: &Value) {
        let at = self
            .owed
            .iter()
            .position(|owed| owed.what == Owed::Presence(document.into()));
        let Some(copy) = self.copies.get_mut(document) else {
            panic!("{}: presence of {document}", self.id)
        };
        if kind == "awareness_state" && self.kind != Kind::Goc {
            let states = body["states"].as_array().expect("states");
            let entry = |entry: &Value| {
                (
                    entry["clientId"].as_str().expect("a client").to_owned(),
                    entry["state"].clone(),
                )
            };
            copy.presence = states.iter().map(entry).collect();
            if let Some(at) = at {
                self.owed.remove(at);
            }
            return;
        }
        let client = body["clientId"].as_str().expect("a client").to_owned();
        if body["state"].is_null() {
            copy.presence.remove(&client);
        } else {
            copy.presence.insert(client, body["state"].clone());
        }
    }
}

fn put(fields: &mut BTreeMap<String, Value>, field: &str, value: &Value) {
    if is_tombstone(value) {
        fields.remove(field);
    } else {
        fields.insert(field.into(), value.clone());
    }
}

/// A refusal because of the database: of a moment, of a document, or of a row.
fn is_of_storage(body: &Value) -> bool {
    body["details"]["retryable"] == true || body["code"] == "INTERNAL_ERROR"
}

fn clock_of(clock: &Value) -> Clock {
    let entries = clock.as_object().expect("a clock").iter();
    let clock: Clock = entries
        .map(|(name, value)| (name.clone(), value.as_u64().expect("a counter")))
        .collect();
    assert!(!clock.is_empty(), "an empty clock makes the SDK throw");
    assert!(
        clock.values().all(|value| *value < 1 << 53),
        "JavaScript cannot hold {clock:?}"
    );
    clock
}
