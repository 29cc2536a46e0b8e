#![no_main]
//! The sizes and the faults of a process; a line that was cut off gives none, and no size is 0.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    let statm = oom::parse::statm(bytes);
    assert_eq!(statm, oom::parse::statm(complete(bytes)));
    assert_eq!(
        oom::parse::major_faults(bytes),
        oom::parse::major_faults(complete(bytes))
    );
    assert!(statm.is_none_or(|statm| statm.size_pages > 0));
});
