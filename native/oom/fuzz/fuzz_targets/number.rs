#![no_main]
//! A number is what a plain reading has it to be, and nothing else is one.

use libfuzzer_sys::fuzz_target;
use oom_fuzz::only_number;

fuzz_target!(|bytes: &[u8]| assert_eq!(oom::parse::number(bytes), only_number(bytes)));
