//! One private ring with its table of direct descriptors.
//!
//! Requests come in two kinds, and the safety of the whole layer rests on the difference:
//! - *Immediate* ones (`RECV` and `SENDMSG` with `MSG_DONTWAIT`, `GETSOCKOPT`) point to memory of the caller. The kernel
//!   carries them out while they are submitted, and the call that queues them does not return before it has seen each of
//!   their completions. So no memory is lent beyond a call, and no buffer ring is needed.
//! - *Standing* ones (polls, accepts, moves, closes, cancels) point to no memory at all; a completion that comes late or
//!   never harms nobody.

use crate::runtime::sockets::BATCH;
use crate::runtime::sys;
use bytes::Bytes;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use smallvec::SmallVec;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 8192;
/// User data of immediate requests; the rest of it is their number.
const IMMEDIATE: u64 = 1 << 63;

/// `IORING_MSG_RING_CQE_SKIP`: the receiving ring is told by mail, not by a completion.
const MSG_RING_CQE_SKIP: u32 = 1;
/// `SOCKET_URING_OP_GETSOCKOPT`, since Linux 6.7.
const GETSOCKOPT: u32 = 2;
const SO_PEERNAME: u32 = 28;

const _: () = assert!(BATCH <= SUBMISSIONS as usize);

/// Room for a `sockaddr_in6`, the longest peer name.
pub(super) type PeerName = [u8; mem::size_of::<libc::sockaddr_in6>()];

/// A completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub user_data: u64,
    pub result: i32,
    flags: u32,
}

impl Completion {
    const NONE: Completion = Completion {
        user_data: 0,
        result: 0,
        flags: 0,
    };

    /// Whether the standing request goes on.
    pub fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// After a read: whether the socket holds more.
    pub fn socket_nonempty(self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }
}

/// A ring with its file table. Used by the thread that made it, and by no other.
pub(super) struct Ring {
    ring: IoUring,
    /// Completions of standing requests that nobody has taken yet.
    standing: Vec<Completion>,
    /// Those of the immediate requests that are being run, by their number.
    immediate: Vec<Completion>,
    immediate_missing: usize,
}

impl Ring {
    /// Makes a ring with places for `files` sockets, whose news make `bell` readable.
    pub fn new(files: u32, bell: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        ring.submitter().register_files_sparse(files)?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let mut ring = Self {
            ring,
            standing: Vec::new(),
            immediate: Vec::new(),
            immediate_missing: 0,
        };
        ring.use_bell(false);
        Ok(ring)
    }

    pub fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Whether there is anything to submit or to take.
    pub fn has_news(&mut self) -> bool {
        self.must_enter() || !self.standing.is_empty() || !self.ring.completion().is_empty()
    }

    /// Lets the kernel ring the bell (the shard is about to sleep) or not (it is awake and looks anyway).
    pub fn use_bell(&mut self, use_it: bool) {
        let completion = self.ring.completion();
        if use_it {
            completion.enable_eventfd();
        } else {
            completion.disable_eventfd();
        }
    }

    /// Submits what is queued and waits for a completion, at most `wait_us`. Returns whether there is one.
    pub fn wait(&mut self, wait_us: u64) -> bool {
        let wait = Timespec::from(Duration::from_micros(wait_us));
        // The time being over is one of the outcomes; any trouble is met again, and handled, by the next turn.
        let _ = self
            .ring
            .submitter()
            .submit_with_args(1, &SubmitArgs::new().timespec(&wait));
        self.has_news()
    }

    /// Submits what is queued, runs the kernel's deferred work and moves all completions to `completions`.
    pub fn turn(&mut self, completions: &mut Vec<Completion>) {
        if self.must_enter() {
            self.enter(0);
        }
        self.take();
        completions.append(&mut self.standing);
    }

    /// Queues a standing request.
    pub fn push(&mut self, request: Standing, user_data: u64) {
        debug_assert_eq!(user_data & IMMEDIATE, 0);
        self.push_entry(&request.entry().user_data(user_data));
    }

    /// Reads once from each socket, into the chunk beside it. Completions are in the order of the requests.
    pub fn receive(&mut self, requests: &mut [(u32, &mut [u8])]) -> &[Completion] {
        self.begin(requests.len());
        for (number, (file, chunk)) in requests.iter_mut().enumerate() {
            let read = opcode::Recv::new(Fixed(*file), chunk.as_mut_ptr(), chunk.len() as u32);
            self.push_immediate(read.flags(libc::MSG_DONTWAIT).build(), number);
        }
        self.finish()
    }

    /// Sends once to each socket. Completions are in the order of the requests.
    pub fn send(&mut self, requests: &[(u32, &[Bytes])]) -> &[Completion] {
        let mut vectors: SmallVec<[SmallVec<[libc::iovec; 4]>; BATCH]> = SmallVec::new();
        vectors.extend(requests.iter().map(|(_, pieces)| sys::io_vectors(pieces)));
        let header = |vectors: &mut SmallVec<[libc::iovec; 4]>| sys::message(vectors);
        let headers: SmallVec<[libc::msghdr; BATCH]> = vectors.iter_mut().map(header).collect();
        self.begin(requests.len());
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        for (number, ((file, pieces), header)) in requests.iter().zip(&headers).enumerate() {
            let entry = match pieces {
                [only] => {
                    let len = u32::try_from(only.len()).unwrap_or(u32::MAX);
                    opcode::Send::new(Fixed(*file), only.as_ptr(), len).flags(flags).build()
                }
                _ => opcode::SendMsg::new(Fixed(*file), header).flags(flags as u32).build(),
            };
            self.push_immediate(entry, number);
        }
        self.finish()
    }

    /// Asks for the peer of each socket; `len` is that of the family's `sockaddr`.
    pub fn peer_names(&mut self, requests: &mut [(u32, &mut PeerName)], len: usize) -> &[Completion] {
        self.begin(requests.len());
        for (number, (file, name)) in requests.iter_mut().enumerate() {
            let name = &mut name[..len];
            let (value, len) = (name.as_mut_ptr().cast(), name.len() as u32);
            let set = opcode::SetSockOpt::new(Fixed(*file), libc::SOL_SOCKET as u32, SO_PEERNAME, value, len);
            self.push_immediate(get_option(set.build()), number);
        }
        self.finish()
    }

    fn begin(&mut self, requests: usize) {
        assert!(requests <= BATCH && self.immediate_missing == 0);
        self.immediate.clear();
        self.immediate.resize(requests, Completion::NONE);
        self.immediate_missing = requests;
    }

    fn push_immediate(&mut self, entry: Entry, number: usize) {
        self.push_entry(&entry.user_data(IMMEDIATE | number as u64));
    }

    /// Returns only when the kernel is done with all memory of the immediate requests; panicking would not be enough, since
    /// it unwinds to whoever owns the memory.
    fn finish(&mut self) -> &[Completion] {
        let mut want = 0;
        while self.immediate_missing > 0 {
            self.enter(want);
            self.take();
            // All of them complete while they are submitted; waiting is for a kernel that does otherwise.
            want = 1;
        }
        &self.immediate
    }

    fn push_entry(&mut self, entry: &Entry) {
        while self.ring.submission().is_full() {
            self.enter(0);
            self.take();
        }
        // SAFETY: standing requests point to no memory. Immediate ones are pushed only by the three methods that borrow
        // their memory and then wait in `finish` until all of them have completed.
        let pushed = unsafe { self.ring.submission().push(entry) };
        debug_assert!(pushed.is_ok(), "the queue was just seen not to be full");
    }

    fn must_enter(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    fn enter(&mut self, want: usize) {
        if let Err(error) = self.ring.submitter().submit_and_wait(want) {
            match error.raw_os_error() {
                // Interrupted, or the completion queue is full or memory short: all callers take what is there and come back.
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                // The kernel has never seen this ring or its memory is gone. Going on would mean memory the kernel may
                // still write to, so not even unwinding is safe.
                _ => {
                    eprintln!("io_uring_enter failed: {error}");
                    std::process::abort();
                }
            }
        }
    }

    fn take(&mut self) {
        for entry in self.ring.completion() {
            let completion = Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            };
            if completion.user_data & IMMEDIATE == 0 {
                self.standing.push(completion);
            } else {
                self.immediate[(completion.user_data & !IMMEDIATE) as usize] = completion;
                self.immediate_missing -= 1;
            }
        }
    }
}

/// A request without memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing {
    /// Tell every change of readiness of a socket in the table.
    Watch { file: u32 },
    /// Tell whenever an ordinary descriptor (the timer) becomes readable.
    WatchDescriptor { descriptor: RawFd },
    /// Tell once when an ordinary descriptor (the doorbell) is readable.
    WatchOnce { descriptor: RawFd },
    /// Accept connections into the table until told otherwise.
    Accept { listener: RawFd },
    /// End the watch or accept that was made with this user data. Not POLL_REMOVE for watches: that one gives up when an
    /// event is just being delivered, and the watch, armed again, would keep a closed socket alive for ever.
    Cancel { user_data: u64 },
    /// Empty a place of the table. Completes only if it was empty.
    Close { file: u32 },
    /// Put the socket into another ring's table too. The result is its place there.
    SendTo { ring: RawFd, file: u32 },
}

impl Standing {
    fn entry(self) -> Entry {
        match self {
            Self::Watch { file } => {
                let bits = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
                opcode::PollAdd::new(Fixed(file), bits as u32).multi(true).build()
            }
            Self::WatchDescriptor { descriptor } => opcode::PollAdd::new(Fd(descriptor), libc::EPOLLIN as u32)
                .multi(true)
                .build(),
            Self::WatchOnce { descriptor } => opcode::PollAdd::new(Fd(descriptor), libc::EPOLLIN as u32).build(),
            Self::Accept { listener } => opcode::AcceptMulti::new(Fd(listener)).allocate_file_index(true).build(),
            Self::Cancel { user_data } => opcode::AsyncCancel::new(user_data).build().flags(Flags::SKIP_SUCCESS),
            Self::Close { file } => opcode::Close::new(Fixed(file)).build().flags(Flags::SKIP_SUCCESS),
            Self::SendTo { ring, file } => {
                opcode::MsgRingSendFd::new(Fd(ring), Fixed(file), DestinationSlot::auto_target(), 0)
                    .opcode_flags(MSG_RING_CQE_SKIP)
                    .build()
            }
        }
    }
}

/// Turns a request that sets a socket option into one that reads it. The crate has no opcode for that, and the two differ
/// in the command number only.
fn get_option(set: Entry) -> Entry {
    const COMMAND: std::ops::Range<usize> = 8..12;
    // SAFETY: an entry is the kernel's 64-byte io_uring_sqe in C layout (transmute checks the size), and any bytes are one.
    let mut bytes: [u8; 64] = unsafe { mem::transmute(set) };
    bytes[COMMAND].copy_from_slice(&GETSOCKOPT.to_ne_bytes());
    // SAFETY: as above; only the command number has changed.
    unsafe { mem::transmute(bytes) }
}
