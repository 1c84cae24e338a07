//! Settings that change while the server runs (SIGHUP): what may change registers here how.

use crate::auth::{Authenticator, PublicKey, PublicKeyError, Users, UsersError, public_keys};
use crate::config::files::{self, FileError};
use crate::config::table::{self, Entry};
use crate::config::{AuthConfig, Config};
use crate::http::Api;
use crate::tls::Certificates;
use std::sync::{Arc, Mutex, PoisonError};

/// Takes over one thing from a new configuration. Says what it did, or why it left everything as it was.
pub type Reloader = Box<dyn Fn(&Config) -> Result<String, String> + Send + Sync>;

/// Everything that can change while the server runs.
pub struct Reloaders {
    list: Mutex<Vec<(&'static str, Reloader)>>,
    /// The configuration in force.
    current: Mutex<Config>,
}

impl Reloaders {
    pub(super) fn new(config: Config) -> Reloaders {
        Reloaders {
            list: Mutex::default(),
            current: Mutex::new(config),
        }
    }

    /// Adds one; `name` is what the log calls it.
    pub fn register(&self, name: &'static str, reloader: Reloader) {
        locked(&self.list).push((name, reloader));
    }

    /// Takes over what may change from `new`, each thing by itself, and logs what became of it.
    pub fn apply(&self, mut new: Config) {
        let mut current = locked(&self.current);
        if new.auth.jwt_secret.generated && current.auth.jwt_secret.generated {
            // A secret that nobody chose stays the one of this start.
            new.auth.jwt_secret = current.auth.jwt_secret.clone();
        }
        for warning in &new.warnings {
            tracing::warn!("{warning}");
        }
        for (name, reloader) in locked(&self.list).iter() {
            match reloader(&new) {
                Ok(done) => tracing::info!("{name}: {done}"),
                Err(reason) => tracing::error!("{name} stays as it was: {reason}"),
            }
        }
        let later = changed_for_a_restart(&current, &new);
        if !later.is_empty() {
            tracing::warn!("changed, but takes effect only at the next start: {}", later.join(", "));
        }
        current.auth = new.auth;
        current.operation.log = new.operation.log;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn changed_for_a_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let reloads = |name| table::find(name).is_some_and(|entry: &Entry| entry.reload);
    let differs = |name: &str, value: &str| {
        old.describe()
            .iter()
            .any(|setting| setting.name == name && setting.value != value)
    };
    new.describe()
        .iter()
        .filter(|setting| !reloads(setting.name) && differs(setting.name, &setting.value))
        .map(|setting| setting.name)
        .collect()
}

/// What the files that the configuration names hold; secrets and accounts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// A configured file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// `JWT_PUBLIC_KEY_FILE` holds something else.
    #[error("JWT_PUBLIC_KEY_FILE: {0}")]
    PublicKeys(#[from] PublicKeyError),
    /// `SYNCKIT_USERS_FILE` holds something else.
    #[error("SYNCKIT_USERS_FILE: {0}")]
    Users(#[from] UsersError),
}

/// Reads the key file.
pub fn read_public_keys(config: &AuthConfig) -> Result<Vec<PublicKey>, SecretsError> {
    match &config.public_key_file {
        Some(path) => Ok(public_keys(&files::read("JWT_PUBLIC_KEY_FILE", path)?)?),
        None => Ok(Vec::new()),
    }
}

/// Reads the users file.
pub fn read_users(config: &AuthConfig) -> Result<Option<Users>, SecretsError> {
    match &config.users_file {
        Some(path) => {
            let text = files::read("SYNCKIT_USERS_FILE", path)?;
            Ok(Some(Users::parse(&text, config.permission_prefixes)?))
        }
        None => Ok(None),
    }
}

pub(super) fn register_secrets(reloaders: &Reloaders, authenticator: Arc<Authenticator>, api: Arc<Api>) {
    let keys = move |config: &Config| {
        let public = read_public_keys(&config.auth).map_err(|error| error.to_string())?;
        let (count, api_keys) = (public.len(), config.auth.api_keys.len());
        authenticator.replace_keys(&config.auth, public);
        Ok(format!("read again, {count} public keys and {api_keys} API keys"))
    };
    let users = move |config: &Config| {
        let users = read_users(&config.auth).map_err(|error| error.to_string())?;
        let done = if users.is_some() { "read again" } else { "none" };
        api.replace_users(users);
        Ok(done.to_owned())
    };
    reloaders.register("accounts", Box::new(users));
    reloaders.register("secrets and keys", Box::new(keys));
}

pub(super) fn register_certificates(reloaders: &Reloaders, certificates: Certificates) {
    let reload = move |_: &Config| {
        certificates.reload().map_err(|error| error.to_string())?;
        Ok("read again".to_owned())
    };
    reloaders.register("TLS certificate", Box::new(reload));
}
