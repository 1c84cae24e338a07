//! Accounts from `SYNCKIT_USERS_FILE` (docs/protocol.md §16.2).
//!
//! Two formats. JSON: a list (or `{"users": [list]}`) of `{email, hash, userId?, permissions?}`, permissions as in tokens.
//! Or one account per line, `email:hash:permissions`, where permissions are `admin`, `write`, `read` or
//! `read=a,b;write=c`; empty lines and lines starting with `#` are skipped. Hashes are argon2 (`$argon2id$…`) or bcrypt
//! (`$2b$…`).

use super::login::LoginWork;
use super::permissions::Permissions;
use crate::config::Role;
use hashbrown::HashMap;
use serde_json::Value;

/// One account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's id in tokens; the e-mail unless the file says otherwise.
    pub user_id: String,
    /// As written in the file.
    pub email: String,
    /// What the account may do.
    pub permissions: Permissions,
}

/// All accounts.
#[derive(Clone)]
pub struct Users {
    /// By lower-case e-mail.
    accounts: HashMap<String, (Account, String)>,
    /// A real hash of the file: checking against it costs unknown users exactly what known ones cost.
    decoy_hash: String,
}

/// Why the users file cannot be used. The operator's fault; the server does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    /// Neither format.
    #[error("SYNCKIT_USERS_FILE is not valid JSON: {0}. Remedy: correct it, or use lines of email:hash:permissions")]
    Json(String),
    /// One entry cannot be understood. Hashes are not quoted.
    #[error(
        "SYNCKIT_USERS_FILE, entry {entry}: {cause}. Remedy: write email:hash:permissions, hash being argon2 or bcrypt"
    )]
    Entry {
        /// Line number or list position, from 1.
        entry: usize,
        /// What is wrong.
        cause: &'static str,
    },
    /// Nobody could log in.
    #[error("SYNCKIT_USERS_FILE has no account. Remedy: add one, or unset the variable")]
    Empty,
}

impl Users {
    /// Reads either format.
    pub fn parse(text: &str, prefixes: bool) -> Result<Self, UsersError> {
        let json = matches!(text.trim_start().as_bytes().first(), Some(b'[' | b'{'));
        let entries = if json {
            from_json(text, prefixes)?
        } else {
            from_lines(text, prefixes)?
        };
        let mut accounts = HashMap::new();
        let mut decoy_hash = None;
        for (entry, account, hash) in entries {
            if !is_supported(&hash) {
                return Err(UsersError::Entry {
                    entry,
                    cause: "the hash is neither argon2 nor bcrypt",
                });
            }
            decoy_hash.get_or_insert_with(|| hash.clone());
            if accounts.insert(account.email.to_lowercase(), (account, hash)).is_some() {
                return Err(UsersError::Entry {
                    entry,
                    cause: "the e-mail appears twice",
                });
            }
        }
        let decoy_hash = decoy_hash.ok_or(UsersError::Empty)?;
        Ok(Self { accounts, decoy_hash })
    }

    /// Number of accounts.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Never: a file without accounts is refused.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The account of `email`, without asking for its password.
    pub fn account(&self, email: &str) -> Option<&Account> {
        self.accounts.get(&email.to_lowercase()).map(|(account, _)| account)
    }

    /// The slow part of a login, to be run where blocking is allowed. Unknown e-mails make the same work.
    pub fn login(&self, email: &str, password: String) -> LoginWork {
        match self.accounts.get(&email.to_lowercase()) {
            Some((account, hash)) => LoginWork::new(password, hash.clone(), Some(account.clone())),
            None => LoginWork::new(password, self.decoy_hash.clone(), None),
        }
    }
}

type Entry = (usize, Account, String);

fn from_json(text: &str, prefixes: bool) -> Result<Vec<Entry>, UsersError> {
    let root: Value = serde_json::from_str(text).map_err(|error| UsersError::Json(error.to_string()))?;
    let list = root.as_array().or_else(|| root.get("users").and_then(Value::as_array));
    let list = list.ok_or_else(|| UsersError::Json("expected a list of accounts".to_owned()))?;
    list.iter()
        .enumerate()
        .map(|(index, value)| {
            let field = |name| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            let entry = index + 1;
            let email = field("email").ok_or(UsersError::Entry {
                entry,
                cause: "email is missing",
            })?;
            let hash = field("hash").ok_or(UsersError::Entry {
                entry,
                cause: "hash is missing",
            })?;
            let permissions = Permissions::from_json(value.get("permissions").unwrap_or(&Value::Null), prefixes);
            let user_id = field("userId").unwrap_or(email).to_owned();
            Ok((
                entry,
                Account {
                    user_id,
                    email: email.to_owned(),
                    permissions,
                },
                hash.to_owned(),
            ))
        })
        .collect()
}

fn from_lines(text: &str, prefixes: bool) -> Result<Vec<Entry>, UsersError> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(entry, line)| {
            let mut parts = line.splitn(3, ':').map(str::trim);
            let (Some(email), Some(hash), Some(rights)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(UsersError::Entry {
                    entry,
                    cause: "expected three parts",
                });
            };
            if email.is_empty() {
                return Err(UsersError::Entry {
                    entry,
                    cause: "email is missing",
                });
            }
            let permissions = permissions_of(rights, prefixes).ok_or(UsersError::Entry {
                entry,
                cause: "permissions are not admin, write, read or read=…;write=…",
            })?;
            let email = email.to_owned();
            Ok((
                entry,
                Account {
                    user_id: email.clone(),
                    email,
                    permissions,
                },
                hash.to_owned(),
            ))
        })
        .collect()
}

fn permissions_of(text: &str, prefixes: bool) -> Option<Permissions> {
    match text {
        "admin" => return Some(Permissions::of_role(Role::Admin)),
        "write" => return Some(Permissions::of_role(Role::Write)),
        "read" => return Some(Permissions::of_role(Role::Read)),
        _ => {}
    }
    let (mut can_read, mut can_write) = (Vec::new(), Vec::new());
    for part in text.split(';') {
        let (kind, documents) = part.split_once('=')?;
        let documents = documents
            .split(',')
            .map(|id| id.trim().to_owned())
            .filter(|id| !id.is_empty());
        match kind.trim() {
            "read" => can_read.extend(documents),
            "write" => can_write.extend(documents),
            _ => return None,
        }
    }
    Some(Permissions::new(can_read, can_write, false, prefixes))
}

fn is_supported(hash: &str) -> bool {
    if hash.starts_with("$argon2") {
        argon2::PasswordHash::new(hash).is_ok_and(|parsed| parsed.hash.is_some() && parsed.salt.is_some())
    } else {
        hash.parse::<bcrypt::HashParts>().is_ok()
    }
}
