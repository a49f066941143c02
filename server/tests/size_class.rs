//! The keyspace counts memory in the size classes of the allocator without calling it; this holds the two together.

#![allow(unsafe_code)]

use leasehold_keyspace::memory::size_class;

/// Entries are counted one by one up to this size; beyond it a rounding error is noise.
const CHECKED_BYTES_MAX: usize = 1024 * 1024;

#[test]
fn size_class_is_what_the_allocator_gives() {
    for bytes in 0..=CHECKED_BYTES_MAX {
        // SAFETY: it computes a number from a number and touches no memory of ours.
        let good = unsafe { libmimalloc_sys::mi_good_size(bytes) };
        assert_eq!(size_class(bytes), good, "for {bytes} bytes");
    }
}

/// Larger blocks are pages of their own; mimalloc rounds those up to its slices, which `mi_good_size` does not tell.
const CLASS_BYTES_MAX: usize = 512 * 1024;
/// mimalloc's `MI_ARENA_SLICE_SIZE`.
const SLICE_BYTES: usize = 64 * 1024;

#[test]
fn a_block_is_as_large_as_its_class_and_a_huge_one_at_most_a_slice_larger() {
    // Every class boundary up to 1 MiB, and the byte above it.
    let mut bytes = 1;
    while bytes <= CHECKED_BYTES_MAX {
        let class = size_class(bytes);
        for asked in [bytes, class] {
            // SAFETY: the block is asked, freed once, and not used in between.
            let usable = unsafe {
                let block = libmimalloc_sys::mi_malloc(asked);
                assert!(!block.is_null());
                let usable = libmimalloc_sys::mi_usable_size(block);
                libmimalloc_sys::mi_free(block);
                usable
            };
            if asked <= CLASS_BYTES_MAX {
                assert_eq!(usable, class, "for {asked} bytes");
            } else {
                assert!((class..class + SLICE_BYTES).contains(&usable), "{usable} for {asked} bytes, class {class}");
            }
        }
        bytes = class + 1;
    }
}
