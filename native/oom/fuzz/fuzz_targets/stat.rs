#![no_main]
//! The values of a `memory.stat`; a line that was cut off gives none.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    for key in [&b"inactive_file"[..], b"total_inactive_file", b"anon", b""] {
        let value = oom::parse::stat_value(bytes, key);
        assert_eq!(value, oom::parse::stat_value(complete(bytes), key));
    }
});
