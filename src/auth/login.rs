//! Checking a password: deliberately slow, so it is a piece of work for a thread that may block, never for a core's loop.

use super::users::Account;
use argon2::{Argon2, PasswordHash, PasswordVerifier};
use std::fmt;

/// Longest password that is hashed, in bytes. Longer ones are wrong without work; how long a password may be is no secret.
const PASSWORD_BYTES_MAX: usize = 1024;

/// One login attempt, complete: it needs nothing but time.
pub struct LoginWork {
    password: String,
    hash: String,
    account: Option<Account>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginResult {
    /// The password is right.
    Accepted(Account),
    /// Unknown e-mail or wrong password; which one is not told.
    Refused,
}

impl fmt::Debug for LoginWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginWork(hidden)")
    }
}

impl LoginWork {
    pub(super) fn new(password: String, hash: String, account: Option<Account>) -> Self {
        Self {
            password,
            hash,
            account,
        }
    }

    /// Blocks for as long as the hash demands, typically 50 to 300 ms, the same for unknown users.
    pub fn run(self) -> LoginResult {
        let right = self.password.len() <= PASSWORD_BYTES_MAX && self.matches();
        match self.account {
            Some(account) if right => LoginResult::Accepted(account),
            _ => LoginResult::Refused,
        }
    }

    fn matches(&self) -> bool {
        if self.hash.starts_with("$argon2") {
            let parsed = PasswordHash::new(&self.hash);
            parsed.is_ok_and(|hash| {
                Argon2::default()
                    .verify_password(self.password.as_bytes(), &hash)
                    .is_ok()
            })
        } else {
            bcrypt::verify(&self.password, &self.hash).unwrap_or(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::users::{Users, UsersError};
    use super::*;
    use argon2::{Algorithm, Params, PasswordHasher, Version};

    fn argon2_hash(password: &str) -> String {
        let cheap = Params::new(64, 1, 1, None).unwrap();
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, cheap);
        PasswordHasher::<PasswordHash>::hash_password_with_salt(&hasher, password.as_bytes(), b"0123456789abcdef")
            .unwrap()
            .to_string()
    }

    #[test]
    fn real_accounts_log_in_and_nobody_else() {
        let bcrypt = bcrypt::hash("pass:word", 4).unwrap();
        let text = format!(
            "# accounts\nann@x.y:{}:admin\n\nbob@x.y:{bcrypt}:read=room:1,b;write=b\n",
            argon2_hash("secret")
        );
        let users = Users::parse(&text, false).unwrap();
        let LoginResult::Accepted(ann) = users.login("Ann@X.Y", "secret".into()).run() else {
            panic!("refused")
        };
        assert!(ann.permissions.is_admin() && ann.user_id == "ann@x.y");
        let LoginResult::Accepted(bob) = users.login("bob@x.y", "pass:word".into()).run() else {
            panic!("refused")
        };
        assert!(bob.permissions.can_read("room:1") && !bob.permissions.can_write("room:1"));
        assert_eq!(users.login("ann@x.y", "wrong".into()).run(), LoginResult::Refused);
        assert_eq!(users.login("ann@x.y", String::new()).run(), LoginResult::Refused);
    }

    #[test]
    fn an_unknown_user_is_refused_even_with_the_decoys_password() {
        let users = Users::parse(&format!("ann:{}:read", argon2_hash("secret")), false).unwrap();
        let work = users.login("eve", "secret".into());
        assert!(work.matches(), "the decoy does real work");
        assert_eq!(work.run(), LoginResult::Refused);
    }

    #[test]
    fn json_accounts() {
        let hash = argon2_hash("p");
        let text =
            format!(r#"{{"users":[{{"email":"a","hash":"{hash}","userId":"u1","permissions":{{"canRead":["*"]}}}}]}}"#);
        let LoginResult::Accepted(account) = Users::parse(&text, false).unwrap().login("a", "p".into()).run() else {
            panic!("refused")
        };
        assert_eq!(account.user_id, "u1");
        assert!(account.permissions.can_read("x") && !account.permissions.can_write("x"));
    }

    #[test]
    fn broken_files_name_the_entry() {
        let entry = |text: &str| match Users::parse(text, false) {
            Err(UsersError::Entry { entry, .. }) => Some(entry),
            _ => None,
        };
        assert_eq!(entry("a:b"), Some(1));
        assert_eq!(entry("#\na:plaintext:admin"), Some(2));
        assert_eq!(entry(&format!("a:{}:owner", argon2_hash("p"))), Some(1));
        assert_eq!(entry(&format!("a:{0}:read\nA:{0}:read", argon2_hash("p"))), Some(2));
        assert!(matches!(Users::parse("{", false), Err(UsersError::Json(_))));
        assert!(matches!(Users::parse("# nobody\n", false), Err(UsersError::Empty)));
    }
}
