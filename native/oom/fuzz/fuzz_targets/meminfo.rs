#![no_main]
//! The figures of a `/proc/meminfo` and a `/proc/self/status`; a line that was cut off gives none.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    use oom::parse::{kib_value, meminfo, plain_value};

    assert_eq!(meminfo(bytes), meminfo(complete(bytes)));
    for key in [&b"VmData"[..], b"FDSize", b"MemTotal", b""] {
        assert_eq!(kib_value(bytes, key), kib_value(complete(bytes), key));
        assert_eq!(plain_value(bytes, key), plain_value(complete(bytes), key));
    }
});
