//! Deleted fields: how they are recognised, and how long they are remembered (docs/protocol.md §9.1, §9.6).

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// What subscribers are told of a deleted field, whatever else the deleting client put into the object.
pub const TOMBSTONE_JSON: &[u8] = br#"{"__deleted":true}"#;

/// Whether a value (valid JSON) deletes its field: an object whose member `__deleted` is `true`.
pub fn is_tombstone(value: &[u8]) -> bool {
    if value.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return false;
    }
    let Ok(text) = simdutf8::basic::from_utf8(value) else {
        return false;
    };
    // The member's name could be written with escapes; without a backslash it must appear as it is.
    if !text.contains("__deleted") && !text.contains('\\') {
        return false;
    }
    serde_json::from_str(text).is_ok_and(|Deleted(deleted)| deleted)
}

/// The last member `__deleted` counts, as in every JSON parser that clients use.
struct Deleted(bool);

impl<'de> Deserialize<'de> for Deleted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DeletedVisitor)
    }
}

struct DeletedVisitor;

impl<'de> Visitor<'de> for DeletedVisitor {
    type Value = Deleted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Deleted, A::Error> {
        let mut deleted = false;
        while let Some(name) = members.next_key::<MemberName>()? {
            if name.0 {
                deleted = members.next_value::<&serde_json::value::RawValue>()?.get() == "true";
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Deleted(deleted))
    }
}

/// Whether the member is `__deleted`, without keeping its name.
struct MemberName(bool);

impl<'de> Deserialize<'de> for MemberName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = MemberName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }
            fn visit_str<E>(self, name: &str) -> Result<MemberName, E> {
                Ok(MemberName(name == "__deleted"))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// One deletion.
pub(super) struct Grave {
    pub at_ms: u64,
    /// The order of the deletion. When the buried thing has another by now, the grave is stale.
    pub lam: u64,
    pub key: Arc<str>,
}

/// Deletions in the order they happened. Whoever writes a deleted thing again leaves a stale grave behind, which is swept
/// when most graves are stale; so every operation costs O(1) on average.
#[derive(Default)]
pub(super) struct Graveyard {
    graves: VecDeque<Grave>,
    count: usize,
}

/// Stale graves that are never worth a sweep.
const CLUTTER_MIN: usize = 32;

impl Graveyard {
    pub fn bury(&mut self, at_ms: u64, lam: u64, key: Arc<str>) {
        self.count += 1;
        self.graves.push_back(Grave { at_ms, lam, key });
    }

    /// One of the buried is no longer deleted, or was dropped; its grave is stale from now on.
    pub fn risen(&mut self) {
        self.count -= 1;
    }

    /// How many graves are not stale.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn oldest(&self) -> Option<&Grave> {
        self.graves.front()
    }

    pub fn remove_oldest(&mut self) {
        self.graves.pop_front();
    }

    pub fn newest(&self) -> impl Iterator<Item = &Grave> {
        self.graves.iter().rev()
    }

    pub fn is_cluttered(&self) -> bool {
        self.graves.len() > 2 * self.count + CLUTTER_MIN
    }

    pub fn retain(&mut self, is_current: impl Fn(&Grave) -> bool) {
        self.graves.retain(is_current);
        self.graves.shrink_to(self.count + CLUTTER_MIN);
    }

    pub fn memory_bytes(&self) -> usize {
        self.graves.capacity() * size_of::<Grave>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_with_deleted_true_is_a_tombstone() {
        for yes in [
            r#"{"__deleted":true}"#,
            " { \"__deleted\" : true } ",
            r#"{"a":{"b":[1]},"__deleted":true,"z":null}"#,
            r#"{"\u005f_deleted":true}"#,
            r#"{"__deleted":false,"__deleted":true}"#,
        ] {
            assert!(is_tombstone(yes.as_bytes()), "{yes}");
        }
        for no in [
            "null",
            "{}",
            r#""{\"__deleted\":true}""#,
            r#"[{"__deleted":true}]"#,
            r#"{"__deleted":1}"#,
            r#"{"__deleted":"true"}"#,
            r#"{"__deleted":true,"__deleted":false}"#,
            r#"{"a":{"__deleted":true}}"#,
            r#"{"a":"\n"}"#,
            "",
        ] {
            assert!(!is_tombstone(no.as_bytes()), "{no}");
        }
    }
}
