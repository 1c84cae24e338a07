//! Proof of no loss: what each followed connection has received, by sequence.
//!
//! Message `n` of a writer goes to its field `n % fields`. For every connection, writer and field the greatest sequence
//! seen is kept, and for every connection how many messages arrived. A message that did not arrive was *coalesced* when a
//! later one of the same field did arrive (the subscriber has the newer value), and is *lost* otherwise. So the last
//! value of each field must always arrive, and `arrived + coalesced + lost` is what was written.

use crate::control::{Audit, Written};
use crate::stamp::Stamp;

/// Received sequences of the connections of one group.
#[derive(Debug)]
pub struct Followed {
    writers: u32,
    fields: u32,
    /// Greatest sequence by connection, writer, field.
    seen: Vec<u32>,
    /// Messages by connection.
    arrived: Vec<u32>,
    duplicated: u64,
    out_of_order: u64,
}

/// What a message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Newer than everything seen of its field.
    New,
    /// Seen already, or older than what was seen.
    Old,
    /// Of a writer that is not followed.
    Foreign,
}

impl Followed {
    /// Follows `writers` of each document with `fields` each, on so many connections.
    pub fn new(connections: u32, writers: u32, fields: u32) -> Self {
        let entries = connections as usize * writers as usize * fields as usize;
        Self {
            writers,
            fields,
            seen: vec![0; entries],
            arrived: vec![0; connections as usize],
            duplicated: 0,
            out_of_order: 0,
        }
    }

    fn place(&self, connection: u32, writer: u32, field: u32) -> usize {
        ((connection as usize * self.writers as usize) + writer as usize) * self.fields as usize + field as usize
    }

    /// A change arrived as a message of its own.
    pub fn delivered(&mut self, connection: u32, stamp: &Stamp) -> Arrival {
        if stamp.writer >= self.writers {
            return Arrival::Foreign;
        }
        let place = self.place(connection, stamp.writer, stamp.sequence % self.fields);
        let seen = &mut self.seen[place];
        if stamp.sequence == *seen {
            self.duplicated += 1;
            return Arrival::Old;
        }
        self.arrived[connection as usize] += 1;
        if stamp.sequence < *seen {
            self.out_of_order += 1;
            return Arrival::Old;
        }
        *seen = stamp.sequence;
        Arrival::New
    }

    /// A change stood in a snapshot: what came before it in its field is superseded.
    pub fn contained(&mut self, connection: u32, stamp: &Stamp) {
        if stamp.writer < self.writers {
            let place = self.place(connection, stamp.writer, stamp.sequence % self.fields);
            self.seen[place] = self.seen[place].max(stamp.sequence);
        }
    }

    /// Adds what one connection should have received of one writer to an audit.
    pub fn audit(&self, connection: u32, written: &Written, audit: &mut Audit) {
        if written.writer >= self.writers {
            return;
        }
        audit.expected += u64::from(written.last);
        for field in 0..self.fields {
            let seen = self.seen[self.place(connection, written.writer, field)];
            let missing = of_field(written.last, self.fields, field).checked_sub(of_field(seen, self.fields, field));
            audit.lost += u64::from(missing.unwrap_or(0));
        }
    }

    /// Messages that arrived at a connection.
    pub fn arrived(&self, connection: u32) -> u64 {
        u64::from(self.arrived[connection as usize])
    }

    /// Messages that came twice, and those that came after a newer one.
    pub fn disorder(&self) -> (u64, u64) {
        (self.duplicated, self.out_of_order)
    }
}

/// How many of the sequences 1 to `last` belong to the field.
fn of_field(last: u32, fields: u32, field: u32) -> u32 {
    let with_zero = (last + fields - field) / fields;
    // Sequence 0 is never written, but belongs to field 0.
    with_zero - u32::from(field == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u32) -> Stamp {
        Stamp {
            writer: 0,
            sequence,
            due_ns: 0,
        }
    }

    fn audited(arrivals: &[u32], fields: u32, last: u32) -> Audit {
        let mut followed = Followed::new(1, 1, fields);
        for sequence in arrivals {
            followed.delivered(0, &stamp(*sequence));
        }
        let mut audit = Audit {
            arrived: followed.arrived(0),
            ..Audit::default()
        };
        let written = Written {
            prefix: String::new(),
            document: 0,
            writer: 0,
            last,
        };
        followed.audit(0, &written, &mut audit);
        audit.coalesced = audit.expected - audit.arrived - audit.lost;
        audit
    }

    #[test]
    fn sequences_are_counted_by_field() {
        for fields in 1..5 {
            for last in 0..40 {
                for field in 0..fields {
                    let expected = (1..=last).filter(|sequence| sequence % fields == field).count() as u32;
                    assert_eq!(of_field(last, fields, field), expected, "{last} {fields} {field}");
                }
            }
        }
    }

    #[test]
    fn a_superseded_message_is_coalesced_and_a_missing_last_one_is_lost() {
        let audit = audited(&[1, 3, 5], 1, 5);
        assert_eq!((audit.arrived, audit.coalesced, audit.lost), (3, 2, 0));
        let audit = audited(&[1, 3], 1, 5);
        assert_eq!((audit.arrived, audit.coalesced, audit.lost), (2, 1, 2));
        let audit = audited(&[], 1, 5);
        assert_eq!((audit.arrived, audit.coalesced, audit.lost), (0, 0, 5));
    }

    #[test]
    fn with_a_field_for_each_message_every_gap_is_a_loss() {
        let audit = audited(&[1, 2, 4], 8, 4);
        assert_eq!((audit.coalesced, audit.lost), (0, 1));
    }

    #[test]
    fn repetition_and_regression_are_noticed() {
        let mut followed = Followed::new(2, 1, 1);
        assert_eq!(followed.delivered(1, &stamp(2)), Arrival::New);
        assert_eq!(followed.delivered(1, &stamp(2)), Arrival::Old);
        assert_eq!(followed.delivered(1, &stamp(1)), Arrival::Old);
        assert_eq!(followed.disorder(), (1, 1));
        assert_eq!((followed.arrived(0), followed.arrived(1)), (0, 2));
        let foreign = Stamp { writer: 1, ..stamp(1) };
        assert_eq!(followed.delivered(0, &foreign), Arrival::Foreign);
    }

    #[test]
    fn a_snapshot_supersedes_what_came_before() {
        let mut followed = Followed::new(1, 1, 1);
        followed.contained(0, &stamp(9));
        let mut audit = Audit::default();
        let written = Written {
            prefix: String::new(),
            document: 0,
            writer: 0,
            last: 9,
        };
        followed.audit(0, &written, &mut audit);
        assert_eq!((audit.expected, audit.lost), (9, 0));
    }
}
