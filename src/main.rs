//! `synckit-server`: the binary. What it can do is in [`synckit_server::command`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    synckit_server::command::run()
}
