#![no_main]
//! The pressure; a truncated line gives none, and a share is never negative.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::complete;

fuzz_target!(|bytes: &[u8]| {
    let psi = oom::parse::psi(bytes);
    assert_eq!(psi, oom::parse::psi(complete(bytes)));
    if let Some(psi) = psi {
        for share in [psi.some_avg10, psi.full_avg10] {
            assert!(share.is_finite() && share >= 0.0);
        }
    }
});
