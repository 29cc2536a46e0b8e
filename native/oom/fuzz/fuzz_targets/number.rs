#![no_main]
//! The parser accepts the same numbers as a plain reading, and nothing else.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::only_number;

fuzz_target!(|bytes: &[u8]| assert_eq!(oom::parse::number(bytes), only_number(bytes)));
