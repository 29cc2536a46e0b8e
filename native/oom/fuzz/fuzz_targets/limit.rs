#![no_main]
//! Every accepted limit equals the number of a plain reading; no digits are lost.

use libfuzzer_sys::fuzz_target;
use oom::parse::{limit, Limit};
use oom_fuzz::only_number;

fuzz_target!(|bytes: &[u8]| match limit(bytes) {
    Some(Limit::Bytes(number)) => assert_eq!(only_number(bytes), Some(number)),
    Some(Limit::Unlimited) =>
        assert!(bytes == b"max\n" || only_number(bytes).is_some_and(|number| number > 1 << 62)),
    None => assert!(bytes != b"max\n" && only_number(bytes).is_none()),
});
