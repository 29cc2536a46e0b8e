#![no_main]
//! The limits of a process; a truncated line gives no limit.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    for name in [&b"Max data size"[..], b"Max address space", b""] {
        let limit = oom::parse::soft_limit(bytes, name);
        assert_eq!(limit, oom::parse::soft_limit(complete(bytes), name));
    }
});
