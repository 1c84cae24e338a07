//! What the routes need to know and remember: configuration, keys, accounts and the tables of who used how much.
//!
//! One [`Api`] is shared by all shards, because a limit per address must hold for the whole server and a stolen refresh
//! token must be noticed wherever it comes. The mutexes guard a table look-up each, are never held across anything slow,
//! and neither upgrades nor `/health*` touch them.

use super::address::AddressGroup;
use super::budget::Budgets;
use super::request::Head;
use super::response::{Framing, Response};
use crate::auth::{Account, Authenticator, LoginResult, RefreshLedger, Subject, Users};
use crate::clock::Now;
use crate::config::{Config, Database, DemoLogin, Environment, HttpConfig};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Logins per minute and address, and per minute and account (§16.2).
const LOGINS_PER_MINUTE_MAX: u32 = 10;
/// Addresses and accounts that are told apart at a time.
const TABLE_CAPACITY: usize = 65_536;

/// The HTTP side's knowledge and memory.
pub struct Api {
    pub(super) http: HttpConfig,
    pub(super) url_token: bool,
    /// A developer's machine.
    pub(super) development: bool,
    pub(super) demo_login: DemoLogin,
    pub(super) auth: Arc<Authenticator>,
    users: RwLock<Option<Arc<Users>>>,
    requests: Mutex<Budgets<AddressGroup>>,
    logins_by_address: Mutex<Budgets<AddressGroup>>,
    logins_by_account: Mutex<Budgets<String>>,
    ledger: Mutex<RefreshLedger>,
}

impl Api {
    /// Ready to answer. `users` are the accounts of the configured users file.
    pub fn new(config: &Config, auth: Arc<Authenticator>, users: Option<Users>) -> Self {
        let requests = Budgets::new(config.http.requests_per_minute_max, TABLE_CAPACITY);
        let mut http = config.http.clone();
        // The switch is about memory; a database keeps them anyway.
        http.memory_snapshots |= config.storage.database != Database::Memory;
        Self {
            http,
            url_token: config.auth.url_token,
            development: config.environment == Environment::Development,
            demo_login: config.auth.demo_login,
            auth,
            users: RwLock::new(users.map(Arc::new)),
            requests: Mutex::new(requests),
            logins_by_address: Mutex::new(Budgets::new(LOGINS_PER_MINUTE_MAX, TABLE_CAPACITY)),
            logins_by_account: Mutex::new(Budgets::new(LOGINS_PER_MINUTE_MAX, TABLE_CAPACITY)),
            ledger: Mutex::new(RefreshLedger::default()),
        }
    }

    /// Other accounts from now on.
    pub fn replace_users(&self, users: Option<Users>) {
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users.map(Arc::new);
    }

    /// The accounts of the users file, if there is one.
    pub(super) fn users(&self) -> Option<Arc<Users>> {
        self.users.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The framing for an answer to `head`.
    pub fn framing(&self, head: &Head) -> Framing {
        Framing::new(head, &self.http.cors_origins)
    }

    /// The framing for an answer to something that could not be parsed.
    pub fn closing_framing(&self) -> Framing {
        Framing::closing(&self.http.cors_origins)
    }

    /// The answer to a login whose password was checked.
    pub fn login_finished(&self, result: LoginResult, now: Now) -> Response {
        match result {
            LoginResult::Refused => Response::error(401, "Invalid credentials"),
            LoginResult::Accepted(Account {
                user_id,
                email,
                permissions,
            }) => {
                let subject = Subject {
                    user_id,
                    email: Some(email),
                    permissions,
                    demo: false,
                };
                super::login::logged_in(&self.auth, &subject, now)
            }
        }
    }

    /// Counts an HTTP request. `Err` holds the seconds to wait.
    pub(super) fn count_request(&self, address: AddressGroup, now: Now) -> Result<(), u64> {
        locked(&self.requests).spend(address, now.mono_ms())
    }

    /// Counts a login attempt. `Err` holds the seconds to wait.
    pub(super) fn count_login(&self, address: AddressGroup, email: &str, now: Now) -> Result<(), u64> {
        locked(&self.logins_by_address).spend(address, now.mono_ms())?;
        locked(&self.logins_by_account).spend(email.to_lowercase(), now.mono_ms())
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, RefreshLedger> {
        locked(&self.ledger)
    }
}

/// A panic elsewhere leaves at worst one entry of a table half counted, so a poisoned lock is still good.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
