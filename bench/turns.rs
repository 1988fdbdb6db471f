//! Loads in turn. A tenth is less than what a shared machine's speed changes by within seconds: so turns are short, each is
//! held against the ones of its limit before and after it, and the median of those ratios counts.

use std::time::Duration;

use crate::client::{Load, Measured};
use crate::process::Outcome;

/// Turns of each that is compared. Even, so that each of several is as often before the others as after.
pub const TURNS: usize = 10;
/// A turn's share of the time of other measurements.
const TURN_SHARE: u32 = 4;
const TURN_WARM_UP: Duration = Duration::from_millis(300);

/// A short run of a load.
pub fn turn(load: Load) -> Outcome<Measured> {
    Load { warm_up: TURN_WARM_UP, duration: load.duration / TURN_SHARE, ..load }.run()
}

/// The one in the middle, by its second half.
pub fn median(mut measured: Vec<(Measured, f64)>) -> (Measured, f64) {
    measured.sort_by(|one, other| one.1.total_cmp(&other.1));
    measured[measured.len() / 2]
}
