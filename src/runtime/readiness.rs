//! Awaiting any descriptor on a glommio executor through glommio's public interface.
//!
//! glommio offers no "wait until readable" for descriptors of others. But its `TcpStream` arms a `POLL_ADD` when it is
//! made and does not touch the descriptor before that fires. Wrapped around an eventfd or an epoll descriptor the first
//! read therefore stays pending until the descriptor is readable and then fails with `ENOTSOCK`: that failure is the
//! signal. A unit test holds glommio to it.

use futures_io::AsyncRead;
use glommio::net::TcpStream;
use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::pin::Pin;

/// Waits until `descriptor` (anything that can be polled, except a socket) is readable. Level-triggered.
///
/// To be awaited to its end: dropped before, it leaves a poll armed until the executor ends.
pub(super) async fn readable(descriptor: BorrowedFd<'_>) {
    // SAFETY: the stream believes it owns the descriptor, but `ManuallyDrop` never lets it close it. Once the read has
    // failed the stream holds nothing but a weak count of the reactor, so nothing of size leaks.
    let mut stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(descriptor.as_raw_fd()) });
    let mut nothing = [0u8; 1];
    // Whatever the outcome, the poll has fired.
    let _ = poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut nothing)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sys;
    use glommio::{LocalExecutorBuilder, Placement};
    use std::cell::Cell;
    use std::os::fd::AsFd;
    use std::rc::Rc;
    use std::time::Duration;

    #[test]
    fn an_eventfd_wakes_its_waiter_once_it_is_rung_and_not_before() {
        let test = || async {
            let bell = Rc::new(sys::eventfd().unwrap());
            let woken = Rc::new(Cell::new(0));
            for round in 1..=3 {
                let (waiting, seen) = (Rc::clone(&bell), Rc::clone(&woken));
                let task = glommio::spawn_local(async move {
                    readable(waiting.as_fd()).await;
                    sys::quiet_bell(waiting.as_fd());
                    seen.set(seen.get() + 1);
                });
                glommio::timer::sleep(Duration::from_millis(20)).await;
                assert_eq!(woken.get(), round - 1, "the waiter woke without a ring");
                sys::ring_bell(bell.as_fd());
                task.await;
                assert_eq!(woken.get(), round);
            }
        };
        LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(0)
            .ring_depth(128)
            .spawn(test)
            .unwrap()
            .join()
            .unwrap();
    }
}
