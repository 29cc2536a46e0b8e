#![no_main]
//! The figures of a `memory.stat`; a truncated line gives none.

use libfuzzer_sys::fuzz_target;
use oom::parse::{memory_stat_v1, memory_stat_v2};
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(memory_stat_v1(bytes), memory_stat_v1(complete(bytes)));
    assert_eq!(memory_stat_v2(bytes), memory_stat_v2(complete(bytes)));
});
