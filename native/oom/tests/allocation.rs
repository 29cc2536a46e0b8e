//! A sample and a cheap look allocate nothing while nothing changes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod tree;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use oom::reading::Source;
use oom::source::{Options, SystemSource};
use tree::{Tree, MIB};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread: the test runner's own thread allocates meanwhile.
struct Counting;

// SAFETY: every call is handed unchanged to the system's allocator. The counter is a thread-local
// without a destructor, initialised at compile time, so access to it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the promises of `alloc`, which are the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of_100_samples(mut source: SystemSource) -> u64 {
    source.sample();
    source.sample();
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..100 {
        std::hint::black_box(source.sample());
        std::hint::black_box(source.unchanged());
    }
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn a_sample_allocates_nothing() {
    let v2 = Tree::v2("/a/b");
    v2.v2_level("a", "209715200", "104857600", 10 * MIB, 0);
    v2.v2_level("a/b", "104857600", "max", 10 * MIB, 0);
    assert_eq!(allocations_of_100_samples(v2.source_with(Some(MIB))), 0);

    let v1 = Tree::v1("/a");
    v1.v1_level("a", 100 * MIB, 10 * MIB, 0);
    v1.v1_kernel("a", 10 * MIB, 0);
    v1.machine_slab(50 * MIB);
    v1.write("proc/self/status", "Name:\tx\nFDSize:\t256\n");
    let memsw = |name: &str| format!("sys/fs/cgroup/memory/a/memory.memsw.{name}_in_bytes");
    v1.write(&memsw("limit"), "104857600\n");
    v1.write(&memsw("usage"), "10485760\n");
    assert_eq!(allocations_of_100_samples(v1.source()), 0);

    assert_eq!(
        allocations_of_100_samples(SystemSource::new(Options::default())),
        0
    );
    assert_eq!(allocations_of_100_samples(Tree::empty().source()), 0);
}
