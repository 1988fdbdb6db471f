//! Points in time and the clock that gives them.
//!
//! Invariant: a [`Timestamp`] is UTC with microseconds, which both databases hold without loss. Order between messages
//! never comes from here: it comes from `seq` and from positions in the event log.
//!
//! Invariant: on PostgreSQL the database's clock is the time, so all nodes agree on it and a change of a machine's clock
//! changes nothing. See [`DatabaseClock`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// How far the machine's clock and the database's may differ. Beyond it one of the two is wrong, and nobody knows which:
/// nothing is deleted by time, and nothing is sent by time.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);
/// [`MAX_CLOCK_SKEW`] in microseconds.
pub const MAX_CLOCK_SKEW_MICROS: i64 = MAX_CLOCK_SKEW.as_secs() as i64 * MICROS_PER_SECOND;
/// Length of `2026-11-22T08:30:00.123456Z`.
const TEXT_LENGTH: usize = 27;

/// Microseconds since 1970-01-01T00:00:00Z; years 0000 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 0000-01-01T00:00:00Z, the earliest that RFC 3339 can write.
    pub const MIN: Self = Self(-62_167_219_200 * MICROS_PER_SECOND);
    /// The last microsecond of the year 9999.
    pub const MAX: Self = Self(253_402_300_800 * MICROS_PER_SECOND - 1);

    /// From microseconds since 1970, held inside [`Timestamp::MIN`] and [`Timestamp::MAX`].
    pub const fn from_micros(micros: i64) -> Self {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Microseconds since 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole days since 1970, rounded down.
    pub const fn day(self) -> i64 {
        self.0.div_euclid(MICROS_PER_DAY)
    }

    /// This point, `days` earlier.
    pub const fn days_before(self, days: i64) -> Self {
        Self::from_micros(self.0.saturating_sub(days.saturating_mul(MICROS_PER_DAY)))
    }

    /// This point, so many microseconds later, or earlier for a negative number.
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// Reads an RFC 3339 date-time with any offset; digits beyond microseconds are cut off.
    pub fn parse(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let micros = parsed.unix_timestamp_nanos().div_euclid(1_000);
        let micros = i64::try_from(micros).ok()?;
        (Self::MIN.0..=Self::MAX.0).contains(&micros).then_some(Self(micros))
    }

    // A page of messages writes some 200 of these. The time crate finds the date; its own formatter would take four times as
    // long as all of this.
    fn text(self) -> [u8; TEXT_LENGTH] {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        // Never the fallback: the time crate reaches beyond MIN and MAX.
        let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (year, month, day) = moment.to_calendar_date();
        let (hour, minute, second) = moment.to_hms();

        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put_digits(&mut text[0..4], year.unsigned_abs());
        put_digits(&mut text[5..7], u8::from(month).into());
        put_digits(&mut text[8..10], day.into());
        put_digits(&mut text[11..13], hour.into());
        put_digits(&mut text[14..16], minute.into());
        put_digits(&mut text[17..19], second.into());
        put_digits(&mut text[20..26], self.0.rem_euclid(MICROS_PER_SECOND) as u32);
        text
    }
}

/// Writes a number with leading zeros.
fn put_digits(target: &mut [u8], number: u32) {
    let mut rest = number;
    for digit in target.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// Where the time comes from: an input, so that a test can hold it still.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// The clock of the database, which all nodes share.
    Database(Arc<DatabaseClock>),
    /// A clock that stands where it was put: microseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The present moment.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => machine_time(),
            Self::Database(clock) => clock.now(),
            Self::Manual(micros) => Timestamp::from_micros(micros.load(Ordering::Relaxed)),
        }
    }

    /// Microseconds by which the machine's clock is ahead of this one; negative where it is behind. 0 where there is no
    /// other clock to compare with.
    pub fn skew_micros(&self) -> i64 {
        match self {
            Self::Database(clock) => machine_time().micros() - clock.now().micros(),
            Self::System | Self::Manual(_) => 0,
        }
    }

    /// Whether rows may be deleted by their age, and messages be sent because they are due: only while the machine's clock
    /// agrees with the database's. It compares the two clocks at this moment, so a change counts at once.
    pub fn is_trusted(&self) -> bool {
        self.skew_micros().abs() <= MAX_CLOCK_SKEW_MICROS
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
fn machine_time() -> Timestamp {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}

/// The database's clock: read from time to time, and continued in between by the monotonic clock, which nobody can set.
#[derive(Debug)]
pub struct DatabaseClock {
    started: Instant,
    /// What the database's clock showed at `started`, by the last reading: microseconds since 1970.
    micros_at_start: AtomicI64,
}

impl Default for DatabaseClock {
    /// A clock that shows the machine's time until the first reading.
    fn default() -> Self {
        Self { started: Instant::now(), micros_at_start: AtomicI64::new(machine_time().micros()) }
    }
}

impl DatabaseClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(
            self.micros_at_start.load(Ordering::Relaxed).saturating_add(micros(self.started.elapsed())),
        )
    }

    /// Takes over a reading: the database answered `time` to a question that was sent at `asked_at` and took `round_trip`.
    /// A difference that the round trip may explain is left alone, so that the time does not jump with each reading.
    pub fn set(&self, time: Timestamp, asked_at: Instant, round_trip: Duration) {
        let answered_after = asked_at.saturating_duration_since(self.started) + round_trip / 2;
        let micros_at_start = time.micros().saturating_sub(micros(answered_after));
        let difference = micros_at_start.saturating_sub(self.micros_at_start.load(Ordering::Relaxed));
        if difference.unsigned_abs() > micros(round_trip).unsigned_abs() {
            self.micros_at_start.store(micros_at_start, Ordering::Relaxed);
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_clock_goes_on_from_the_last_reading() {
        let database = Arc::new(DatabaseClock::default());
        let clock = Clock::Database(Arc::clone(&database));
        assert!(clock.is_trusted() && clock.skew_micros().abs() < MICROS_PER_SECOND);
        let second = Duration::from_secs(1);
        let ago = machine_time().days_before(200);
        database.set(ago, Instant::now(), second);
        // The answer was given half-way.
        let ahead = clock.now().micros() - ago.micros();
        assert!((-MICROS_PER_SECOND / 2..MICROS_PER_SECOND / 2).contains(&ahead), "{ahead}");
        assert!(!clock.is_trusted());
        assert_eq!(clock.skew_micros() / MICROS_PER_SECOND / 86_400, 200);
        // Within the round trip nothing says which of two readings is better.
        let before = clock.now();
        database.set(before.plus_micros(MICROS_PER_SECOND / 2), Instant::now(), second);
        assert!(clock.now().micros() - before.micros() < MICROS_PER_SECOND / 4);
        database.set(machine_time(), Instant::now(), Duration::ZERO);
        assert!(clock.is_trusted());
    }

    #[test]
    fn text_and_parse_agree() {
        for text in [
            "2026-11-22T08:30:00.123456Z",
            "1970-01-01T00:00:00.000000Z",
            "2000-02-29T23:59:59.999999Z",
            "1969-12-31T23:59:59.000001Z",
            "0000-01-01T00:00:00.000000Z",
            "9999-12-31T23:59:59.999999Z",
        ] {
            assert_eq!(Timestamp::parse(text).map(|at| at.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn text_agrees_with_the_time_crate() {
        for step in 0..20_000 {
            let at = Timestamp::from_micros(Timestamp::MIN.0 + step * 15_778_476_123_457);
            assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
        }
    }

    #[test]
    fn offsets_are_understood_and_nonsense_is_not() {
        assert_eq!(Timestamp::parse("2026-11-22T10:30:00+02:00"), Timestamp::parse("2026-11-22T08:30:00Z"));
        for text in ["", "yesterday", "2026-11-22", "2026-13-01T00:00:00Z", "2026-11-22T08:30:00"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
