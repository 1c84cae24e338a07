//! Groups that write: closed loops that wait for acknowledgements, and open loops that keep to their schedule.

use crate::control::{Activity, Writing};
use std::collections::VecDeque;

/// Words of a text before its author begins another document, so that states stay of ordinary size.
const WORDS_MAX: u32 = 100;

/// One connection that writes.
#[derive(Debug, Default)]
pub struct Writer {
    /// Changes written; the last one has this sequence.
    pub sequence: u32,
    /// Sequence and time of the changes not yet acknowledged, oldest first.
    under_way: VecDeque<(u32, u64)>,
    /// The text it is typing.
    pub text: Text,
}

impl Writer {
    /// Notes a change that is sent now and was due then; gives its sequence.
    pub fn write(&mut self, due_ns: u64) -> u32 {
        self.sequence += 1;
        self.under_way.push_back((self.sequence, due_ns));
        self.sequence
    }

    /// The time of the change acknowledged, `None` when it was not under way.
    pub fn acknowledge(&mut self, sequence: u32) -> Option<u64> {
        // Acknowledgements come in order from every server of the family, so the first entry nearly always fits.
        let at = self.under_way.iter().position(|entry| entry.0 == sequence)?;
        self.under_way.remove(at).map(|entry| entry.1)
    }

    /// Changes not acknowledged.
    pub fn under_way(&self) -> u32 {
        self.under_way.len() as u32
    }

    /// The connection ended: what was under way stays unanswered.
    pub fn forget_under_way(&mut self) {
        self.under_way.clear();
    }
}

/// What a group is doing.
#[derive(Debug)]
pub struct Acting {
    /// How it writes.
    pub activity: Activity,
    /// What.
    pub writing: Writing,
    /// By place in the group.
    pub writers: Vec<Writer>,
    /// No further change is written.
    pub resting: bool,
    schedule: Option<Schedule>,
}

/// Evenly spaced times.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    started_ns: u64,
    interval_ns: f64,
    given: u64,
}

impl Acting {
    /// A group of so many connections begins.
    pub fn new(activity: Activity, writing: Writing, connections: u32, started_ns: u64) -> Self {
        let schedule = match activity {
            Activity::Closed { .. } => None,
            Activity::Paced { per_second } | Activity::Text { per_second } | Activity::Presence { per_second } => {
                (per_second > 0.0).then_some(Schedule {
                    started_ns,
                    interval_ns: 1e9 / per_second,
                    given: 0,
                })
            }
        };
        let mut writers = Vec::new();
        writers.resize_with(connections as usize, Writer::default);
        Self {
            activity,
            writing,
            writers,
            resting: false,
            schedule,
        }
    }

    /// When the next change is due.
    pub fn next_due_ns(&self) -> Option<u64> {
        let schedule = self.schedule.filter(|_| !self.resting)?;
        Some(schedule.started_ns + (schedule.given as f64 * schedule.interval_ns) as u64)
    }

    /// The next change that is due by now: its writer's place in the group, and when it was due.
    pub fn take_due(&mut self, now_ns: u64) -> Option<(u32, u64)> {
        let due_ns = self.next_due_ns().filter(|due_ns| *due_ns <= now_ns)?;
        let schedule = self.schedule.as_mut()?;
        let writer = schedule.given % self.writers.len() as u64;
        schedule.given += 1;
        Some((writer as u32, due_ns))
    }

    /// How many changes the writer may send now in a closed loop.
    pub fn room(&self, writer: u32) -> u32 {
        let Activity::Closed { in_flight } = self.activity else {
            return 0;
        };
        let writer = &self.writers[writer as usize];
        let left = match self.writing.messages_max {
            0 => u32::MAX,
            max => max.saturating_sub(writer.sequence),
        };
        if self.resting {
            0
        } else {
            in_flight.saturating_sub(writer.under_way()).min(left)
        }
    }
}

/// The text of one author who only appends: one block per word, each right of the one before (docs/text-state.md §2).
#[derive(Debug, Default)]
pub struct Text {
    blocks: Vec<u8>,
    words: u32,
    clock: u32,
    /// How many documents the author has filled before this one.
    pub epoch: u32,
}

impl Text {
    /// Types one more word and appends the complete state as JSON text to `out`.
    pub fn type_word(&mut self, client: &str, out: &mut Vec<u8>) {
        if self.words == WORDS_MAX {
            *self = Text {
                epoch: self.epoch + 1,
                ..Text::default()
            };
        }
        let word = "words ";
        let left_origin = match self.clock {
            0 => "null".to_owned(),
            clock => id(client, clock),
        };
        self.clock += word.len() as u32;
        self.words += 1;
        let own = id(client, self.clock);
        if !self.blocks.is_empty() {
            self.blocks.push(b',');
        }
        let block = format!(
            "[{own},{{\"id\":{own},\"text\":\"{word}\",\"left_origin\":{left_origin},\"right_origin\":null,\"deleted\":false}}]"
        );
        self.blocks.extend_from_slice(block.as_bytes());
        out.extend_from_slice(b"{\"blocks\":[");
        out.extend_from_slice(&self.blocks);
        let end = format!("],\"clock\":{{\"value\":{}}},\"client_id\":\"{client}\"}}", self.clock);
        out.extend_from_slice(end.as_bytes());
    }
}

fn id(client: &str, clock: u32) -> String {
    format!("{{\"client_id\":\"{client}\",\"clock\":{clock},\"offset\":0}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITING: Writing = Writing {
        payload_bytes: 0,
        fields: 1,
        messages_max: 3,
        documents_each: 1,
        documents_apart: 0,
    };

    #[test]
    fn a_closed_loop_waits_for_acknowledgements_and_ends() {
        let mut acting = Acting::new(Activity::Closed { in_flight: 2 }, WRITING, 1, 0);
        assert_eq!((acting.room(0), acting.next_due_ns()), (2, None));
        assert_eq!((acting.writers[0].write(10), acting.writers[0].write(11)), (1, 2));
        assert_eq!(acting.room(0), 0);
        assert_eq!(acting.writers[0].acknowledge(2), Some(11));
        assert_eq!(acting.writers[0].acknowledge(2), None);
        assert_eq!(acting.room(0), 1);
        acting.writers[0].write(12);
        assert_eq!(acting.writers[0].acknowledge(1), Some(10));
        assert_eq!(acting.room(0), 0, "three messages were all");
    }

    #[test]
    fn a_schedule_is_kept_whatever_happens() {
        let mut acting = Acting::new(Activity::Paced { per_second: 1000.0 }, WRITING, 2, 5_000);
        assert_eq!(acting.take_due(4_999), None);
        let due: Vec<_> = std::iter::from_fn(|| acting.take_due(3_005_000)).collect();
        assert_eq!(due, [(0, 5_000), (1, 1_005_000), (0, 2_005_000), (1, 3_005_000)]);
        assert_eq!(acting.next_due_ns(), Some(4_005_000));
        acting.resting = true;
        assert_eq!(acting.next_due_ns(), None);
    }

    #[test]
    fn typed_texts_are_states_the_server_accepts() {
        let mut text = Text::default();
        for words in 1..=WORDS_MAX + 1 {
            let mut state = Vec::new();
            text.type_word("c-1", &mut state);
            let json: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
            let blocks = json["blocks"].as_array().expect("blocks").len() as u32;
            assert_eq!(blocks, if words > WORDS_MAX { 1 } else { words });
        }
        assert_eq!(text.epoch, 1);
    }
}
