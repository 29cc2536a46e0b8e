//! The candidate nearest to its floor so far.

use crate::reading::Reading;

/// Of equal readings the first offered wins, so offers go from the specific to the general.
#[derive(Debug, Default)]
pub(super) struct Tightest(Option<Reading>);

impl Tightest {
    /// Offers a reading; returns whether the reading is now the tightest.
    pub(super) fn offer(&mut self, reading: Reading) -> bool {
        let binds = self.has_room_for(reading.distance_bytes());
        if binds {
            self.0 = Some(reading);
        }
        binds
    }

    /// Whether a reading at this distance from its floor would become the tightest.
    pub(super) fn has_room_for(&self, distance_bytes: i128) -> bool {
        self.0
            .as_ref()
            .is_none_or(|best| distance_bytes < best.distance_bytes())
    }

    pub(super) fn into_reading(self) -> Option<Reading> {
        self.0
    }
}
