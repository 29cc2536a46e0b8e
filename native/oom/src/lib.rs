//! Memory limits, without any BEAM: where the limits are (`source`), how the files are read
//! (`parse`), how close the tightest limit is (`level`, `growth`), how often to look (`pace`), and
//! the thread in charge (`watcher`).

pub mod error;
pub mod reading;

// Sources of figures.
pub mod parse;
pub mod source;

mod event;

pub mod settled;

// Conclusions from the figures, and the thread.
pub mod floor;
pub mod growth;
pub mod level;
pub mod pace;
pub mod slack;
pub mod watcher;
pub mod watermarks;
