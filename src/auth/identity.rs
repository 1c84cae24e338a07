//! The outcome of authentication, shared by every place that acts for a connection.

use super::permissions::Permissions;

/// Who somebody is. Immutable and shared (`Arc`), so a connection owns one pointer; with a token of its own it is the only
/// owner of 48 bytes, which are one block of the allocator, and of the user's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user; never empty.
    pub user_id: Box<str>,
    /// What is allowed.
    pub permissions: Permissions,
    /// Until when, and how it was shown.
    validity: Validity,
}

const _: () = assert!(size_of::<Identity>() <= 32, "an identity of its own got more expensive");

/// Expiry and proof in one word. Expiries end long before 2^62 (the verifier cuts them to the year 9999), and the second 0,
/// which has always passed, stands for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity(u64);

/// What an identity rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: authentication is off.
    Anonymous,
    /// A valid token.
    Token,
    /// A token that anybody can get from the demo login.
    DemoToken,
    /// A configured API key.
    ApiKey,
}

impl Identity {
    /// An identity. `expires_at_unix_s` is in Unix seconds, after which it must not be used any more; `None` = it does not
    /// expire.
    pub fn new(user_id: Box<str>, permissions: Permissions, proof: Proof, expires_at_unix_s: Option<u64>) -> Self {
        let expires = expires_at_unix_s.map_or(0, |expires| expires.clamp(1, u64::MAX >> Validity::PROOF_BITS));
        Self {
            user_id,
            permissions,
            validity: Validity(expires << Validity::PROOF_BITS | proof as u64),
        }
    }

    /// Unix seconds after which it must not be used any more; `None` = it does not expire.
    pub fn expires_at_unix_s(&self) -> Option<u64> {
        Some(self.validity.0 >> Validity::PROOF_BITS).filter(|expires| *expires > 0)
    }

    /// How it was shown.
    pub fn proof(&self) -> Proof {
        match self.validity.0 & ((1 << Validity::PROOF_BITS) - 1) {
            0 => Proof::Anonymous,
            1 => Proof::Token,
            2 => Proof::DemoToken,
            _ => Proof::ApiKey,
        }
    }
}

impl Validity {
    const PROOF_BITS: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_and_proof_share_a_word_without_touching_each_other() {
        for proof in [Proof::Anonymous, Proof::Token, Proof::DemoToken, Proof::ApiKey] {
            for expires in [None, Some(1), Some(253_402_300_799)] {
                let identity = Identity::new("u".into(), Permissions::anonymous(), proof, expires);
                assert_eq!((identity.proof(), identity.expires_at_unix_s()), (proof, expires));
            }
        }
    }
}
