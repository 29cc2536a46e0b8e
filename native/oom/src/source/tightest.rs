//! The candidate with the least headroom so far.

use crate::reading::Reading;

/// Of equals the first offered wins, so offers go from the specific to the general.
#[derive(Debug, Default)]
pub(super) struct Tightest(Option<Reading>);

impl Tightest {
    pub(super) fn offer(&mut self, reading: Reading) {
        if self.has_room_for(reading.headroom_bytes()) {
            self.0 = Some(reading);
        }
    }

    /// Whether a reading with this headroom would become the tightest.
    pub(super) fn has_room_for(&self, headroom_bytes: u64) -> bool {
        self.0
            .as_ref()
            .is_none_or(|best| headroom_bytes < best.headroom_bytes())
    }

    pub(super) fn into_reading(self) -> Option<Reading> {
        self.0
    }
}
