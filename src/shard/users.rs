//! How many users are connected to a shard.

use crate::auth::{Identity, Proof};
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::hash::BuildHasher;

/// Counts users, not connections. A user is known by a keyed 64-bit hash of the user id, because a second copy of every id
/// would cost more than anything else here; that two of a million users share a hash is less likely than 1 in 10 million,
/// and would make the count too low by one.
#[derive(Debug, Default)]
pub(super) struct Users {
    hasher: DefaultHashBuilder,
    connected: HashTable<u64>,
    /// Connections beyond the first, for users who have several.
    further: HashMap<u64, u32>,
    /// Anonymous connections, each a user of its own.
    anonymous: u64,
}

impl Users {
    /// A connection became this user's.
    pub fn came(&mut self, identity: &Identity) {
        let Some(user) = self.user(identity) else {
            self.anonymous += 1;
            return;
        };
        if self.connected.find(user, |known| *known == user).is_some() {
            *self.further.entry(user).or_insert(0) += 1;
        } else {
            self.connected.insert_unique(user, user, |known| *known);
        }
    }

    /// A connection is this user's no more.
    pub fn gone(&mut self, identity: &Identity) {
        let Some(user) = self.user(identity) else {
            self.anonymous -= 1;
            return;
        };
        if let Some(count) = self.further.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.further.remove(&user);
            }
        } else if let Ok(entry) = self.connected.find_entry(user, |known| *known == user) {
            entry.remove();
        }
    }

    /// Users at this moment.
    pub fn count(&self) -> u64 {
        self.connected.len() as u64 + self.anonymous
    }

    fn user(&self, identity: &Identity) -> Option<u64> {
        (identity.proof() != Proof::Anonymous).then(|| self.hasher.hash_one(&*identity.user_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Permissions;

    #[test]
    fn a_user_counts_once_until_the_last_connection_is_gone() {
        let identity = |user: &str| Identity::new(user.into(), Permissions::default(), Proof::Token, Some(1));
        let anonymous = Identity::new("anonymous".into(), Permissions::anonymous(), Proof::Anonymous, None);
        let mut users = Users::default();
        for number in 0..1000 {
            users.came(&identity(&format!("user-{}", number % 100)));
        }
        users.came(&anonymous);
        users.came(&anonymous);
        assert_eq!(users.count(), 102);
        for number in 0..900 {
            users.gone(&identity(&format!("user-{}", number % 100)));
        }
        users.gone(&anonymous);
        assert_eq!((users.count(), users.further.len()), (101, 0));
        users.gone(&identity("user-7"));
        assert_eq!(users.count(), 100);
    }
}
