//! The allocator of the process: another one for ordinary blocks, the kernel for large ones.
//!
//! A buffer of many megabytes that grows with what arrives would be copied at every doubling, and the copy touches as many
//! pages for the first time, all in one turn of a shard. The kernel moves the pages instead (`mremap`), and new ones are
//! touched when they are written, some with each read.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{NonNull, null_mut};

/// From this size on a block is the kernel's. Each is a mapping or a part of one (adjacent ones are joined), and below this
/// size copying takes less than half a millisecond.
const LARGE_BYTES: usize = 1 << 20;

/// The smallest page there is: what every mapping is aligned to, and counted in.
const PAGE_BYTES: usize = 4096;

/// Large blocks from the kernel, all others from the allocator inside.
#[derive(Debug)]
pub struct LargeBlocks<A>(pub A);

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE_BYTES && layout.align() <= PAGE_BYTES
}

/// The size of the mapping of a block. The kernel rounds up to whole pages, which may be larger, by itself.
fn mapped(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE_BYTES)
}

fn block(address: *mut libc::c_void) -> *mut u8 {
    if address == libc::MAP_FAILED {
        return null_mut();
    }
    address.cast()
}

/// A new block of zeros; null if there is no memory.
fn map(bytes: usize) -> *mut u8 {
    let (readable, private) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: the kernel chooses the place, so nothing that is in use is touched.
    block(unsafe { libc::mmap(null_mut(), mapped(bytes), readable, private, -1, 0) })
}

// SAFETY: which of the two a block comes from follows from its layout alone, and a caller gives the same layout back. Both
// give blocks of the size and alignment that were asked for; a mapping is aligned to a page.
unsafe impl<A: GlobalAlloc> GlobalAlloc for LargeBlocks<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_large(layout) {
            true => map(layout.size()),
            // SAFETY: the caller's promises are this one's.
            false => unsafe { self.0.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_large(layout) {
            true => map(layout.size()),
            // SAFETY: the caller's promises are this one's.
            false => unsafe { self.0.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: the block is a mapping of this size, and its owner is done with it.
            let result = unsafe { libc::munmap(address.cast(), mapped(layout.size())) };
            debug_assert_eq!(result, 0);
        } else {
            // SAFETY: the caller's promises are this one's, and the block came from there.
            unsafe { self.0.dealloc(address, layout) }
        }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that `bytes` is a valid size for this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        match (is_large(layout), is_large(new)) {
            // SAFETY: the block is a mapping of this size; its owner uses the result from now on.
            (true, true) => block(unsafe {
                libc::mremap(
                    address.cast(),
                    mapped(layout.size()),
                    mapped(bytes),
                    libc::MREMAP_MAYMOVE,
                )
            }),
            // SAFETY: the caller's promises are this one's, and the block came from there.
            (false, false) => unsafe { self.0.realloc(address, layout, bytes) },
            _ => {
                // SAFETY: `bytes` is not 0, which the caller promises.
                let Some(target) = NonNull::new(unsafe { self.alloc(new) }) else {
                    return null_mut();
                };
                // SAFETY: both blocks have at least so many bytes, and the new one is nobody else's.
                unsafe {
                    target
                        .as_ptr()
                        .copy_from_nonoverlapping(address, layout.size().min(bytes));
                    self.dealloc(address, layout);
                }
                target.as_ptr()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    fn filled(allocator: &LargeBlocks<System>, layout: Layout) -> *mut u8 {
        // SAFETY: no layout here has size 0, and what is written lies inside the block.
        unsafe {
            let address = allocator.alloc(layout);
            assert!(!address.is_null() && address.addr().is_multiple_of(layout.align()));
            for at in (0..layout.size()).step_by(1021) {
                address.add(at).write(at as u8);
            }
            address
        }
    }

    #[test]
    fn blocks_keep_their_content_while_they_grow_and_shrink() {
        let allocator = LargeBlocks(System);
        let sizes = [
            1,
            LARGE_BYTES - 1,
            LARGE_BYTES,
            LARGE_BYTES + 1,
            3 * LARGE_BYTES,
            2 * LARGE_BYTES,
        ];
        for align in [1, 64, PAGE_BYTES, 2 * PAGE_BYTES] {
            for from in sizes {
                for to in sizes {
                    let layout = |bytes| Layout::from_size_align(bytes, align).expect("a valid layout");
                    let address = filled(&allocator, layout(from));
                    // SAFETY: the block was allocated with this layout and is used under its new address only.
                    unsafe {
                        let address = allocator.realloc(address, layout(from), to);
                        assert!(!address.is_null() && address.addr().is_multiple_of(align));
                        for at in (0..from.min(to)).step_by(1021) {
                            assert_eq!(address.add(at).read(), at as u8, "{from} to {to}, byte {at}");
                        }
                        // All of it can be written.
                        address.add(to - 1).write(7);
                        allocator.dealloc(address, layout(to));
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_are_zeros() {
        let allocator = LargeBlocks(System);
        for bytes in [100, LARGE_BYTES, 2 * LARGE_BYTES] {
            let layout = Layout::from_size_align(bytes, 8).expect("a valid layout");
            // SAFETY: the layout is not empty, and what is read lies inside the block.
            unsafe {
                allocator.dealloc(filled(&allocator, layout), layout);
                let address = allocator.alloc_zeroed(layout);
                assert!(std::slice::from_raw_parts(address, bytes).iter().all(|byte| *byte == 0));
                allocator.dealloc(address, layout);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri ends where the kernel refuses")]
    fn what_cannot_be_had_is_null() {
        let allocator = LargeBlocks(System);
        let small = Layout::from_size_align(LARGE_BYTES, 1).expect("a valid layout");
        let huge = Layout::from_size_align(1 << 60, 1).expect("a valid layout");
        // SAFETY: a block that could not grow stays what it was.
        unsafe {
            assert!(allocator.alloc(huge).is_null());
            let address = filled(&allocator, small);
            assert!(allocator.realloc(address, small, huge.size()).is_null());
            assert_eq!(address.add(1021).read(), 1021_usize as u8);
            allocator.dealloc(address, small);
        }
    }
}
