//! Compares a load with another load, its limit, in short alternating runs, called turns. The speed of a shared machine can
//! change by more than a tenth within seconds. So each turn is compared only with the nearest turns of its limit before and
//! after it. The result is the median of these ratios.

use std::time::Duration;

use crate::client::{Load, Measured};
use crate::process::Outcome;

/// Number of turns of each load. It is even because `accounts` reverses the order of its loads after each turn. So each load
/// runs before the others as often as after them.
pub const TURNS: usize = 10;
/// The duration of other measurements is divided by this number to get the duration of a turn.
const TURN_SHARE: u32 = 4;
const TURN_WARM_UP: Duration = Duration::from_millis(300);

/// A short run of a load.
pub fn turn(load: Load) -> Outcome<Measured> {
    Load { warm_up: TURN_WARM_UP, duration: load.duration / TURN_SHARE, ..load }.run()
}

/// The entry whose second value is the median. If the number of entries is even, the upper one of the two in the middle.
pub fn median(mut measured: Vec<(Measured, f64)>) -> (Measured, f64) {
    measured.sort_by(|one, other| one.1.total_cmp(&other.1));
    measured[measured.len() / 2]
}
