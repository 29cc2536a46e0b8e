#![no_main]
//! The cgroups of a process; paths begin at the root, and a truncated line gives no membership.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    let all = oom::parse::memberships(bytes);
    assert!(all.eq(oom::parse::memberships(complete(bytes))));
    for one in oom::parse::memberships(bytes) {
        assert!(one.path.starts_with(b"/") && !one.path.contains(&b'\n'));
        assert!(!(one.is_v2() && one.is_v1_memory()));
    }
});
