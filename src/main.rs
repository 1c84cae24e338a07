//! `synckit-server`: the binary. What it can do is in [`synckit_server::command`].

use std::process::ExitCode;
#[cfg(not(feature = "system-allocator"))]
use synckit_server::runtime::allocator::LargeBlocks;

// A sanitizer sees what an allocator of its own hides from it.
#[cfg(not(feature = "system-allocator"))]
#[global_allocator]
static ALLOCATOR: LargeBlocks<mimalloc::MiMalloc> = LargeBlocks(mimalloc::MiMalloc);

fn main() -> ExitCode {
    synckit_server::command::run()
}
