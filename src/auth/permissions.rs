//! What an identity may read and write (docs/protocol.md §8.1).

use crate::config::Role;
use hashbrown::HashSet;
use serde::{Serialize, Serializer};
use std::sync::{Arc, Mutex, PoisonError};

/// Read and write permissions. Writing does not include reading.
///
/// A handle: copies share their lists, and `KnownPermissions` lets equal ones of different tokens share them too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions(Arc<Lists>);

/// The lists are kept as they were given because clients get them back; the wildcard is looked up once.
#[derive(Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lists {
    can_read: Vec<String>,
    can_write: Vec<String>,
    is_admin: bool,
    #[serde(skip)]
    reads_all: bool,
    #[serde(skip)]
    writes_all: bool,
    #[serde(skip)]
    prefixes: bool,
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Permissions {
    /// Permissions from their lists. With `prefixes`, an entry ending in `*` matches every id that starts with the rest.
    pub fn new(can_read: Vec<String>, can_write: Vec<String>, is_admin: bool, prefixes: bool) -> Self {
        let all = |list: &[String]| list.iter().any(|entry| entry == "*");
        Self(Arc::new(Lists {
            reads_all: all(&can_read),
            writes_all: all(&can_write),
            can_read,
            can_write,
            is_admin,
            prefixes,
        }))
    }

    /// What a role means: `*` in the lists it includes.
    pub fn of_role(role: Role) -> Self {
        let everything = || vec!["*".to_owned()];
        match role {
            Role::Admin => Self::new(everything(), everything(), true, false),
            Role::Write => Self::new(everything(), everything(), false, false),
            Role::Read => Self::new(everything(), Vec::new(), false, false),
        }
    }

    /// What anybody may do while authentication is off (§7.2).
    pub fn anonymous() -> Self {
        Self::of_role(Role::Write)
    }

    /// Reads `{canRead, canWrite, isAdmin}` from JSON. Whatever is missing or malformed grants nothing.
    pub fn from_json(value: &serde_json::Value, prefixes: bool) -> Self {
        let list = |name: &str| -> Vec<String> {
            let entries = value.get(name).and_then(serde_json::Value::as_array);
            entries
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.as_str().map(str::to_owned))
                .collect()
        };
        let is_admin = value
            .get("isAdmin")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false);
        Self::new(list("canRead"), list("canWrite"), is_admin, prefixes)
    }

    /// The same without administrative rights.
    pub fn without_admin(self) -> Self {
        if !self.0.is_admin {
            return self;
        }
        let lists = &self.0;
        Self::new(lists.can_read.clone(), lists.can_write.clone(), false, lists.prefixes)
    }

    /// Whether `document` may be read.
    pub fn can_read(&self, document: &str) -> bool {
        let lists = &self.0;
        lists.is_admin || lists.reads_all || lists.holds(&lists.can_read, document)
    }

    /// Whether `document` may be written.
    pub fn can_write(&self, document: &str) -> bool {
        let lists = &self.0;
        lists.is_admin || lists.writes_all || lists.holds(&lists.can_write, document)
    }

    /// Whether the administrative calls are allowed.
    pub fn is_admin(&self) -> bool {
        self.0.is_admin
    }
}

impl Lists {
    fn holds(&self, list: &[String], document: &str) -> bool {
        list.iter().any(|entry| {
            entry == document
                || self.prefixes
                    && entry
                        .strip_suffix('*')
                        .is_some_and(|prefix| document.starts_with(prefix))
        })
    }
}

/// The permissions that were seen in tokens, so that a million connections with the same ones hold them once. Looked up
/// when a token is checked, never afterwards.
#[derive(Debug, Default)]
pub(super) struct KnownPermissions {
    known: Mutex<HashSet<Arc<Lists>>>,
}

/// How many different ones are remembered. Beyond it those that nobody holds any more are forgotten, and if that is not
/// enough all of them: sharing is lost then, nothing else.
const KNOWN_MAX: usize = 4096;

impl KnownPermissions {
    /// The same permissions, shared with earlier ones that are equal.
    pub fn shared(&self, permissions: Permissions) -> Permissions {
        // The set is whole after every statement, so a panic elsewhere does not spoil it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = known.get(&permissions.0) {
            return Permissions(Arc::clone(earlier));
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|lists| Arc::strong_count(lists) > 1);
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(Arc::clone(&permissions.0));
        permissions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writing_does_not_include_reading() {
        let permissions = Permissions::new(vec!["a".into()], vec!["b".into()], false, false);
        assert!(permissions.can_read("a") && !permissions.can_read("b"));
        assert!(permissions.can_write("b") && !permissions.can_write("a"));
        assert!(!permissions.can_read("A") && !permissions.can_read("aa"));
    }

    #[test]
    fn the_wildcard_and_admin_open_everything() {
        let reader = Permissions::of_role(Role::Read);
        assert!(reader.can_read("x") && !reader.can_write("x") && !reader.is_admin());
        let admin = Permissions::new(vec![], vec![], true, false);
        assert!(admin.can_read("x") && admin.can_write("x"));
        assert!(!admin.without_admin().can_read("x"));
    }

    #[test]
    fn prefixes_match_only_when_switched_on() {
        let lists = || vec!["room:*".to_owned()];
        assert!(Permissions::new(lists(), vec![], false, true).can_read("room:1"));
        assert!(!Permissions::new(lists(), vec![], false, true).can_read("rooms"));
        assert!(!Permissions::new(lists(), vec![], false, false).can_read("room:1"));
    }

    #[test]
    fn malformed_permissions_grant_nothing() {
        for bad in [
            json!(null),
            json!("*"),
            json!(["*"]),
            json!({"canRead": "*", "isAdmin": "true"}),
            json!({"isAdmin": 1}),
        ] {
            let permissions = Permissions::from_json(&bad, true);
            assert!(
                !permissions.can_read("a") && !permissions.can_write("a") && !permissions.is_admin(),
                "{bad}"
            );
        }
        let mixed = Permissions::from_json(&json!({"canRead": [1, null, "a"]}), false);
        assert!(mixed.can_read("a") && !mixed.can_read("1"));
    }

    #[test]
    fn clients_get_the_lists_back() {
        let permissions = Permissions::anonymous();
        let wanted = json!({"canRead": ["*"], "canWrite": ["*"], "isAdmin": false});
        assert_eq!(serde_json::to_value(permissions).unwrap(), wanted);
    }

    #[test]
    fn equal_permissions_are_held_once_and_the_memory_of_them_is_bounded() {
        let known = KnownPermissions::default();
        let of = |number: usize| Permissions::new(vec![format!("doc-{number}")], vec![], false, false);
        let (first, second) = (known.shared(of(0)), known.shared(of(0)));
        assert!(Arc::ptr_eq(&first.0, &second.0));
        let admin = known.shared(Permissions::new(vec!["doc-0".into()], vec![], true, false));
        assert!(!Arc::ptr_eq(&first.0, &admin.0) && !first.is_admin());
        for number in 1..3 * KNOWN_MAX {
            known.shared(of(number));
            assert!(known.known.lock().unwrap().len() <= KNOWN_MAX);
        }
        assert!(Arc::ptr_eq(&first.0, &known.shared(of(0)).0), "what is in use is kept");
        let held: Vec<Permissions> = (0..2 * KNOWN_MAX).map(|number| known.shared(of(number))).collect();
        assert!(known.known.lock().unwrap().len() <= KNOWN_MAX && held[7].can_read("doc-7"));
    }
}
