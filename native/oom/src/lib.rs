//! What OOM knows about memory limits, without any BEAM in it: where the limits are
//! (`source`), how the files are read (`parse`), how close the tightest one is (`level`,
//! `growth`), how often to look (`pace`), and the thread that does it all (`watcher`).

pub mod error;
pub mod reading;

// Where figures come from.
pub mod parse;
pub mod source;

mod event;

// What follows from them, and the thread.
pub mod floor;
pub mod growth;
pub mod level;
pub mod pace;
pub mod slack;
pub mod watcher;
pub mod watermarks;
