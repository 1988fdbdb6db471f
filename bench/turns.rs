//! Loads in turns. The speed of a shared machine changes within seconds by more than a tenth. So turns are short, each turn is
//! compared with the turns of its limit before and after it, and the median of these ratios counts.

use std::time::Duration;

use crate::client::{Load, Measured};
use crate::process::Outcome;

/// Turns of each load. The number is even, so that each of several loads runs as often before the others as after them.
pub const TURNS: usize = 10;
/// The time of a turn, as a divisor of the time of other measurements.
const TURN_SHARE: u32 = 4;
const TURN_WARM_UP: Duration = Duration::from_millis(300);

/// A short run of a load.
pub fn turn(load: Load) -> Outcome<Measured> {
    Load { warm_up: TURN_WARM_UP, duration: load.duration / TURN_SHARE, ..load }.run()
}

/// The entry with the median of the second values.
pub fn median(mut measured: Vec<(Measured, f64)>) -> (Measured, f64) {
    measured.sort_by(|one, other| one.1.total_cmp(&other.1));
    measured[measured.len() / 2]
}
