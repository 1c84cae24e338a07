//! What the operator chose: environment variables and flags turned into plain, checked data.
//!
//! [`Config::load`] is pure: it is handed what was said where ([`Sources`]), so tests and the simulation need no process
//! environment. Which settings there are stands in one [`table`]. It never falls back silently: a value it does not understand is an error that names the variable, the
//! value and what would be accepted, and all errors are collected before the start is refused. An empty value counts as
//! unset (docs/protocol.md §20). Reading key and user files is the business of [`files`], the only part with I/O.
//!
//! Secrets live only in the fields made for them. [`Config::describe`] leaves them out, errors never quote them, and
//! their types print as `(hidden)`.

mod cluster;
pub mod files;
mod flags;
mod load;
mod network;
mod operation;
mod production;
mod reader;
mod settings;
pub mod sources;
mod storage;
pub mod table;
mod values;

pub use cluster::{ClusterConfig, RedisUrl};
pub use flags::Flags;
pub use network::{Network, TrustedProxies};
pub use operation::OperationConfig;
pub use reader::{ConfigError, Origin, Problem, Setting};
pub use settings::{
    ApiKey, AuthConfig, Config, CorsOrigins, DemoLogin, DocumentPolicy, Environment, HttpConfig, JwtSecret,
    LimitsConfig, RateLimitMode, Role, SocketChoice, SyncConfig, TlsConfig,
};
pub use sources::{ConfigFile, ConfigFileError, Sources};
pub use storage::{Database, Durability, StorageConfig};
pub use values::duration_s;

#[cfg(test)]
mod load_tests;
#[cfg(test)]
mod sources_tests;
