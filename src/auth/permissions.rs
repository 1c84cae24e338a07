//! What an identity may read and write (docs/protocol.md §8.1).

use crate::config::Role;
use serde::Serialize;

/// Read and write permissions. Writing does not include reading.
///
/// The lists are kept as they were given because clients get them back; the wildcard is looked up once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permissions {
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

impl Permissions {
    /// Permissions from their lists. With `prefixes`, an entry ending in `*` matches every id that starts with the rest.
    pub fn new(can_read: Vec<String>, can_write: Vec<String>, is_admin: bool, prefixes: bool) -> Self {
        let all = |list: &[String]| list.iter().any(|entry| entry == "*");
        Self {
            reads_all: all(&can_read),
            writes_all: all(&can_write),
            can_read,
            can_write,
            is_admin,
            prefixes,
        }
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
        Self {
            is_admin: false,
            ..self
        }
    }

    /// Whether `document` may be read.
    pub fn can_read(&self, document: &str) -> bool {
        self.is_admin || self.reads_all || self.listed(&self.can_read, document)
    }

    /// Whether `document` may be written.
    pub fn can_write(&self, document: &str) -> bool {
        self.is_admin || self.writes_all || self.listed(&self.can_write, document)
    }

    /// Whether the administrative calls are allowed.
    pub fn is_admin(&self) -> bool {
        self.is_admin
    }

    fn listed(&self, list: &[String], document: &str) -> bool {
        list.iter().any(|entry| {
            entry == document
                || self.prefixes
                    && entry
                        .strip_suffix('*')
                        .is_some_and(|prefix| document.starts_with(prefix))
        })
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
}
