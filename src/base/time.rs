//! Timestamps and clocks.
//!
//! Invariant: a [`Timestamp`] is in UTC with microseconds, which both databases store without loss. The order of messages and
//! events never depends on time: it comes from `seq` and from positions in the event log.
//!
//! Invariant: on PostgreSQL, the time is that of the database's clock. All nodes agree on it, and setting the clock of a
//! machine has no effect. See [`DatabaseClock`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// The largest accepted difference between the clocks of the machine and of the database. If the difference is larger, one of
/// the clocks is wrong, and the server cannot know which. So it deletes no expired data and sends no scheduled messages.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);
/// [`MAX_CLOCK_SKEW`] in microseconds.
pub const MAX_CLOCK_SKEW_MICROS: i64 = MAX_CLOCK_SKEW.as_secs() as i64 * MICROS_PER_SECOND;
/// The length of `2026-11-22T08:30:00.123456Z`.
const TEXT_LENGTH: usize = 27;
/// The length of `2026-11-22`.
const DATE_LENGTH: usize = 10;

/// Microseconds since 1970-01-01T00:00:00Z; years 0000 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 0000-01-01T00:00:00Z, the earliest that RFC 3339 can write.
    pub const MIN: Self = Self(-62_167_219_200 * MICROS_PER_SECOND);
    /// The last microsecond of the year 9999.
    pub const MAX: Self = Self(253_402_300_800 * MICROS_PER_SECOND - 1);

    /// Creates a timestamp from microseconds since 1970, limited to [`Timestamp::MIN`] and [`Timestamp::MAX`].
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

    /// The time `days` earlier.
    pub const fn days_before(self, days: i64) -> Self {
        Self::from_micros(self.0.saturating_sub(days.saturating_mul(MICROS_PER_DAY)))
    }

    /// The time `micros` microseconds later, or earlier if the number is negative.
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// Parses an RFC 3339 date-time with any offset, or a date such as `2026-11-22`, which stands for its first moment in UTC.
    /// Digits beyond microseconds are cut off.
    pub fn parse(text: &str) -> Option<Self> {
        let midnight = (text.len() == DATE_LENGTH).then(|| format!("{text}T00:00:00Z"));
        let parsed = OffsetDateTime::parse(midnight.as_deref().unwrap_or(text), &Rfc3339).ok()?;
        let micros = parsed.unix_timestamp_nanos().div_euclid(1_000);
        let micros = i64::try_from(micros).ok()?;
        (Self::MIN.0..=Self::MAX.0).contains(&micros).then_some(Self(micros))
    }

    // A page of messages has about 200 timestamps. This function uses the time crate for the calendar only, because the
    // formatter of that crate takes four times as long as this function.
    fn text(self) -> [u8; TEXT_LENGTH] {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        // The fallback is never used, because the range of the time crate includes MIN and MAX.
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

/// Writes a number with leading zeros into all of `target`.
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

/// The source of time. It is an input, so that a test can control it.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// The clock of the database, which all nodes share.
    Database(Arc<DatabaseClock>),
    /// A clock that shows the stored time until it is changed, in microseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => machine_time(),
            Self::Database(clock) => clock.now(),
            Self::Manual(micros) => Timestamp::from_micros(micros.load(Ordering::Relaxed)),
        }
    }

    /// Microseconds by which the machine's clock is ahead of this clock, negative if it is behind. 0 if this clock is not the
    /// database's.
    pub fn skew_micros(&self) -> i64 {
        match self {
            Self::Database(clock) => machine_time().micros() - clock.now().micros(),
            Self::System | Self::Manual(_) => 0,
        }
    }

    /// Whether the machine's clock agrees with the database's. Only then may rows be deleted because of their age and scheduled
    /// messages be sent. The two clocks are compared at each call, so a change has an immediate effect.
    pub fn is_trusted(&self) -> bool {
        self.skew_micros().abs() <= MAX_CLOCK_SKEW_MICROS
    }
}

#[expect(clippy::disallowed_methods, reason = "the only place that reads the machine's clock")]
fn machine_time() -> Timestamp {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}

/// The clock of the database. It is read from time to time. Between two readings, the machine's monotonic clock continues the
/// time. That clock cannot be set.
#[derive(Debug)]
pub struct DatabaseClock {
    started: Instant,
    /// The time of the database's clock at `started`, computed from the last reading: microseconds since 1970.
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

    /// Uses a reading of the database's clock: the query was sent at `asked_at`, took `round_trip` and returned `time`. If the
    /// reading differs from this clock by no more than the round trip, the clock is not changed. Otherwise the time would jump
    /// with each reading.
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
    fn the_database_clock_continues_from_the_last_reading() {
        let database = Arc::new(DatabaseClock::default());
        let clock = Clock::Database(Arc::clone(&database));
        assert!(clock.is_trusted() && clock.skew_micros().abs() < MICROS_PER_SECOND);
        let second = Duration::from_secs(1);
        let ago = machine_time().days_before(200);
        database.set(ago, Instant::now(), second);
        // The database is assumed to answer in the middle of the round trip.
        let ahead = clock.now().micros() - ago.micros();
        assert!((-MICROS_PER_SECOND / 2..MICROS_PER_SECOND / 2).contains(&ahead), "{ahead}");
        assert!(!clock.is_trusted());
        assert_eq!(clock.skew_micros() / MICROS_PER_SECOND / 86_400, 200);
        // A difference within the round trip does not change the clock.
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
    fn offsets_are_parsed_and_other_texts_are_refused() {
        assert_eq!(Timestamp::parse("2026-11-22T10:30:00+02:00"), Timestamp::parse("2026-11-22T08:30:00Z"));
        assert_eq!(Timestamp::parse("2026-11-22"), Timestamp::parse("2026-11-22T00:00:00Z"));
        for text in [
            "",
            "yesterday",
            "0123456789",
            "2026-11-31",
            "2026-11-22T",
            "2026-11-22 ",
            "26-11-22",
            "20261122",
            "2026-13-01T00:00:00Z",
            "2026-11-22T08:30:00",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
