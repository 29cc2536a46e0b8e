//! The watcher allocates nothing from one sample to the next: out of memory, the watcher could not
//! allocate either.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{channel, Sender};
use std::time::Duration;

use oom::error::SourceError;
use oom::pace::Pace;
use oom::reading::{Sample, Source};
use oom::source::{Options, SystemSource};
use oom::watcher::{Config, Report, Sink, SinkClosed, SystemClock, Watcher};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: every call is handed unchanged to the system's allocator. The counter is a thread-local
// without a destructor, initialised at compile time, so access to it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the same requirements.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the same requirements.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WARM_UP: u64 = 20;
const SAMPLES: u64 = 200;

/// The system's source; reports the allocations between samples.
struct Watched {
    source: SystemSource,
    samples: u64,
    at_first: u64,
    allocated: Sender<u64>,
}

impl Source for Watched {
    fn sample(&mut self) -> Sample {
        let count = ALLOCATIONS.with(Cell::get);
        self.samples += 1;
        if self.samples == WARM_UP {
            self.at_first = count;
        } else if self.samples == WARM_UP + SAMPLES {
            let _ = self.allocated.send(count - self.at_first);
        }
        self.source.sample()
    }

    fn feed(&mut self, usage_bytes: u64) {
        self.source.feed(usage_bytes);
    }

    fn take_problem(&mut self) -> Option<SourceError> {
        self.source.take_problem()
    }
}

/// Accepts every message and does nothing.
struct Deaf;

impl Sink for Deaf {
    fn level_changed(&mut self, _report: &Report) -> Result<(), SinkClosed> {
        Ok(())
    }

    fn tick(&mut self, _report: &Report) -> Result<(), SinkClosed> {
        Ok(())
    }

    fn problem(&mut self, _error: &SourceError) {}

    fn died(&mut self) {}
}

#[test]
fn none_from_sample_to_sample() -> io::Result<()> {
    // A distant limit, and a passed limit: ticks and all.
    for limit_bytes in [None, Some(1_000_000)] {
        let (allocated, told) = channel();
        let options = Options {
            root: PathBuf::from("/"),
            limit_bytes,
        };
        let source = Watched {
            source: SystemSource::new(options),
            samples: 0,
            at_first: 0,
            allocated,
        };
        let interval = Duration::from_millis(1);
        let config = Config {
            pace: Pace::new(interval, interval).unwrap_or_default(),
            ..Config::default()
        };
        let _watcher = Watcher::spawn(config, source, Deaf, SystemClock::default())?;
        assert_eq!(
            told.recv_timeout(Duration::from_secs(30)),
            Ok(0),
            "limit {limit_bytes:?}"
        );
    }
    Ok(())
}
