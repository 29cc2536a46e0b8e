//! The limits OOM finds on this system, and the cost of a sample:
//! `cargo run --release --example look`.
//!
//! The first argument is an alternative root for `/proc` and `/sys`.

use std::time::Instant;

use oom::reading::Source;
use oom::source::{Options, SystemSource};

const SAMPLES: u32 = 10_000;

fn main() {
    let mut options = Options::default();
    if let Some(root) = std::env::args_os().nth(1) {
        options.root = root.into();
    }
    let mut source = SystemSource::new(options);
    let sample = source.sample();
    match &sample.binding {
        None => println!("no limit found"),
        Some(binding) => {
            println!("binding      {:?}", binding.kind);
            println!("limit        {} MiB", binding.limit_bytes >> 20);
            println!("usage        {} MiB", binding.usage_bytes >> 20);
            println!("reclaimable  {} MiB", binding.reclaimable_bytes >> 20);
            println!("working set  {} MiB", binding.working_set_bytes >> 20);
            println!("headroom     {} MiB", binding.headroom_bytes() >> 20);
            println!("file         {:?}", binding.file);
            println!("cgroup       {:?}", binding.cgroup);
        }
    }
    println!(
        "rss          {:?} KiB",
        sample.rss_bytes.map(|bytes| bytes >> 10)
    );
    println!("swap         {:?}", sample.swap);
    println!("psi          {:?}", sample.psi);
    while let Some(problem) = source.take_problem() {
        println!("problem      {problem}");
    }

    let start = Instant::now();
    for _ in 0..SAMPLES {
        std::hint::black_box(source.sample());
    }
    println!(
        "a sample     {:?} (mean of {SAMPLES})",
        start.elapsed() / SAMPLES
    );

    source.sample();
    let start = Instant::now();
    let mut same = 0;
    for _ in 0..SAMPLES {
        same += u32::from(std::hint::black_box(source.unchanged()));
    }
    println!(
        "a cheap look {:?} (mean of {SAMPLES}; {same} found nothing new)",
        start.elapsed() / SAMPLES
    );
}
