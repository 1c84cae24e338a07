//! SyncKit server for bare-metal Linux: every core runs an isolated executor that owns a shard of the documents.

pub mod auth;
pub mod awareness;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod config;
pub mod document;
pub mod handler;
pub mod histogram;
pub mod http;
pub mod ids;
pub mod json;
pub mod limits;
pub mod log;
pub mod mutation;
pub mod notify;
pub mod protocol;
pub mod runtime;
pub mod saved;
pub mod server;
pub mod session;
pub mod shard;
pub mod storage;
pub mod text;
pub mod tls;
pub mod websocket;
