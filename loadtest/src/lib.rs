//! Load tester and side-by-side comparison for SyncKit servers.
//!
//! One run of a scenario becomes one [`result::RunResult`]: everything that is printed, charted, asserted or compared
//! is read from it, so a saved JSON file can do whatever a live run can.

pub mod assertion;
pub mod bare;
pub mod check;
pub mod commits;
pub mod compare;
pub mod control;
pub mod dialect;
pub mod fleet;
pub mod frame;
pub mod http;
pub mod layout;
pub mod measure;
pub mod metric;
pub mod options;
pub mod probe;
pub mod progress;
pub mod report;
pub mod result;
pub mod run;
pub mod scenario;
pub mod sockets;
pub mod stamp;
pub mod target;
pub mod token;
pub mod worker;
