//! Writes that bring large text states: each state is merged by another thread ([`crate::merging`]) and taken over here.
//!
//! - One request per shard is under way, that of the first write in `text_writes`.
//! - A result counts only for the stored state it was made of. If another one has been merged meanwhile, the merge is asked
//!   for again, and after some tries done here.
//! - The connection that sent it does nothing else meanwhile (`Shard::begin_waiting`), and is answered as for any write:
//!   what is acknowledged has been merged.

use super::Shard;
use super::home_writes::text_refusal;
use super::long_writes::LongWrite;
use super::mail::{Mail, WriteOp};
use crate::limits::TEXT_MERGE_TRIES;
use crate::merging::{self, Came, Done, MergeAnswer, MergeRequest};
use crate::text::{Incoming, Merged, TextError, TextState};
use bytes::Bytes;

impl Shard {
    /// A write whose next element is a large text state.
    pub(super) fn await_merge(&mut self, long: LongWrite) {
        self.text_writes.push_back(long);
        if self.text_writes.len() == 1 {
            self.ask_for_merge();
        }
    }

    /// Has the state of the first write merged.
    fn ask_for_merge(&mut self) {
        self.merge_tries = 0;
        while let Some(long) = self.text_writes.front() {
            let Some(place) = self.library.find(&long.write.document) else {
                self.begin_again();
                continue;
            };
            if let Some(WriteOp::Text { state, .. }) = long.write.ops.get(long.op) {
                let (text, state) = (long.write.text.clone(), state.clone());
                return self.submit_merge(place, Came::Json { text, state });
            }
            // Only texts are put here.
            self.text_writes.pop_front();
        }
    }

    /// The document of the first write held nothing and was disposed of: that write begins anew.
    fn begin_again(&mut self) {
        if let Some(long) = self.text_writes.pop_front() {
            self.post(self.id, Mail::Write(long.write));
        }
    }

    fn submit_merge(&mut self, place: u32, came: Came) {
        let request = MergeRequest {
            shard: self.id,
            stored: self.stored_text(place).cloned(),
            came,
            limits: self.library.text_limits,
        };
        (self.context.merging.submit)(request);
    }

    fn stored_text(&mut self, place: u32) -> Option<&TextState> {
        let text = self.library.at(place)?.text.as_ref()?;
        Some(&text.state)
    }

    /// The answer to what was asked for.
    pub(super) fn text_merged(&mut self, answer: MergeAnswer) {
        let Some(long) = self.text_writes.front() else { return };
        let Some(place) = self.library.find(&long.write.document) else {
            self.begin_again();
            return self.ask_for_merge();
        };
        let is_current = match (self.stored_text(place), &answer.stored) {
            (None, None) => true,
            (Some(now), Some(then)) => now.is_same(then),
            _ => false,
        };
        let outcome = match answer.outcome {
            Ok(done) if !is_current => {
                self.merge_tries += 1;
                if self.merge_tries < TEXT_MERGE_TRIES {
                    return self.submit_merge(place, Came::Read(done.incoming));
                }
                self.merge_here(place, &done.incoming)
            }
            outcome => outcome.map(|Done { merged, encoded, .. }| (merged, Some(encoded))),
        };
        let Some(mut long) = self.text_writes.pop_front() else {
            return;
        };
        let timestamp = match long.write.ops.get(long.op) {
            Some(WriteOp::Text { timestamp, .. }) => *timestamp,
            _ => None,
        };
        long.op += 1;
        match outcome {
            Ok((merged, encoded)) => self.take_merged(place, long.write.session, timestamp, merged, encoded),
            Err(error) => long.refusals.push(text_refusal(error)),
        }
        self.changed(place);
        if long.op < long.write.ops.len() {
            self.long_writes.push_back(long);
        } else {
            self.finish_write(place, long.write, long.refusals, long.joined);
        }
        self.ask_for_merge();
    }

    /// Others are always faster: the merge is done in this turn.
    fn merge_here(&mut self, place: u32, incoming: &Incoming) -> Result<(Merged, Option<Bytes>), TextError> {
        let limits = self.library.text_limits;
        let merged = merging::merge_read(self.stored_text(place), incoming, &limits)?;
        Ok((merged, None))
    }
}
