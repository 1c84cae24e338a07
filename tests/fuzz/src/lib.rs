//! What the fuzzer runs; the functions themselves are in `targets`, where `tests/fuzz_smoke.rs` uses them too.
#![feature(cfg_sanitize)]

#[path = "../../support/bare_shard.rs"]
mod bare_shard;
pub mod targets;
#[path = "../../support/text_client.rs"]
mod text_client;
#[path = "../../support/text_oracle.rs"]
mod text_oracle;

// The server's. A sanitizer sees what an allocator of its own hides from it.
#[cfg(not(sanitize = "address"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
