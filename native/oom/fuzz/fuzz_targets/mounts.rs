#![no_main]
//! The mounts; paths begin at the root, and a truncated line gives no mount.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    let all = oom::parse::mounts(bytes);
    assert!(all.eq(oom::parse::mounts(complete(bytes))));
    for mount in oom::parse::mounts(bytes) {
        assert!(mount.root.starts_with(b"/") && mount.mountpoint.starts_with(b"/"));
        assert!(!mount.filesystem.is_empty());
        let _ = mount.has_super_option(b"memory");
    }
});
