#![no_main]
//! What is taken for a limit is one as a plain reading has it, and nothing of it is lost.

use libfuzzer_sys::fuzz_target;
use oom::parse::{limit, Limit};
use oom_fuzz::only_number;

fuzz_target!(|bytes: &[u8]| match limit(bytes) {
    Some(Limit::Bytes(number)) => assert_eq!(only_number(bytes), Some(number)),
    Some(Limit::Unlimited) =>
        assert!(bytes == b"max\n" || only_number(bytes).is_some_and(|number| number > 1 << 62)),
    None => assert!(bytes != b"max\n" && only_number(bytes).is_none()),
});
