//! Listening sockets that a service manager opened before the process started (`sd_listen_fds(3)`): descriptors from 3 on,
//! announced by `LISTEN_PID` and `LISTEN_FDS`.

use super::sys;
use std::os::fd::OwnedFd;

/// The first one, by convention.
const FIRST: i32 = 3;
/// More than anybody passes.
const COUNT_MAX: i32 = 1024;

/// Takes them over. Call once, before any other descriptor is opened; without the variables, or with those of another
/// process, there are none.
///
/// # Errors
/// What is wrong with the variables or the sockets, for the operator.
pub fn listeners() -> Result<Vec<OwnedFd>, String> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") != Some(std::process::id() as i32) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    if !(0..=COUNT_MAX).contains(&count) {
        return Err(format!("LISTEN_FDS={count} is not a number of sockets"));
    }
    (FIRST..FIRST + count).map(sys::take_listener).collect()
}
