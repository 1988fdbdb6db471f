//! The figures: a table for people, and a file for comparing runs.
//!
//! Invariant: each figure is shown with the limit of the same run. A rate alone depends on the machine; the ratio shows the
//! cost of the server.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::{CONNECTIONS, Measured};
use crate::process::{Context, Outcome};

/// The target of a figure.
#[derive(Clone, Copy)]
pub enum Target {
    /// At least this share of the limit.
    Ratio(f64),
    /// Equal to the limit, within this share in either direction.
    Same(f64),
    /// At most this many times the limit.
    TimesAtMost(f64),
    /// At most this, in the figure's own unit.
    AtMost(f64),
    /// No target: the figure is for information.
    Nothing,
}

/// One line of the table.
pub struct Figure {
    /// What was measured.
    pub what: String,
    pub value: f64,
    pub unit: Unit,
    /// Median and 99th percentile, in microseconds.
    pub latency_us: Option<(u32, u32)>,
    /// The limit: its name and its value.
    pub limit: Option<(String, f64)>,
    /// The ratio, if value and limit were measured in pairs. Otherwise the ratio is the value divided by the limit.
    pub paired_ratio: Option<f64>,
    pub target: Target,
}

#[derive(Clone, Copy)]
pub enum Unit {
    /// Answers or transactions per second.
    PerSecond,
    /// 2^20 bytes per second.
    MebibytesPerSecond,
    /// 2^20 bytes.
    Mebibytes,
    /// 2^10 bytes.
    Kibibytes,
    Milliseconds,
}

impl Figure {
    /// A rate and its limit.
    pub fn rate(what: &str, measured: Measured, limit: (&str, f64), target: Target) -> Self {
        Self {
            what: what.to_owned(),
            value: measured.rate,
            unit: Unit::PerSecond,
            latency_us: Some((measured.p50_us, measured.p99_us)),
            limit: Some((limit.0.to_owned(), limit.1)),
            paired_ratio: None,
            target,
        }
    }

    /// A rate and its limit, with the ratio of pairs of measurements.
    pub fn paired(what: &str, measured: Measured, limit: (&str, f64), ratio: f64, target: Target) -> Self {
        Self { paired_ratio: Some(ratio), ..Self::rate(what, measured, limit, target) }
    }

    /// A size of memory, with the largest size allowed.
    pub fn memory(what: &str, size_bytes: u64, at_most_mib: f64) -> Self {
        let value = size_bytes as f64 / f64::from(1 << 20);
        Self::plain(what, value, Unit::Mebibytes, at_most_mib)
    }

    /// A time, with the longest time allowed.
    pub fn time(what: &str, taken: Duration, at_most_ms: f64) -> Self {
        Self::plain(what, taken.as_secs_f64() * 1e3, Unit::Milliseconds, at_most_ms)
    }

    /// A time with another time as its limit.
    pub fn time_beside(what: &str, taken: Duration, other: (&str, Duration), target: Target) -> Self {
        Self {
            what: what.to_owned(),
            value: taken.as_secs_f64() * 1e3,
            unit: Unit::Milliseconds,
            latency_us: None,
            limit: Some((other.0.to_owned(), other.1.as_secs_f64() * 1e3)),
            paired_ratio: None,
            target,
        }
    }

    fn plain(what: &str, value: f64, unit: Unit, at_most: f64) -> Self {
        Self {
            what: what.to_owned(),
            value,
            unit,
            latency_us: None,
            limit: None,
            paired_ratio: None,
            target: Target::AtMost(at_most),
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.paired_ratio.or_else(|| self.limit.as_ref().map(|(_, limit)| self.value / limit))
    }

    fn met(&self) -> Option<bool> {
        match self.target {
            Target::Ratio(least) => Some(self.ratio().is_some_and(|ratio| ratio >= least)),
            Target::Same(share) => Some(self.ratio().is_some_and(|ratio| (ratio - 1.0).abs() <= share)),
            Target::TimesAtMost(most) => Some(self.ratio().is_some_and(|ratio| ratio <= most)),
            Target::AtMost(most) => Some(self.value <= most),
            Target::Nothing => None,
        }
    }

    fn cells(&self) -> [String; 7] {
        let target = match self.target {
            Target::Ratio(least) => format!("≥ {least:.2}"),
            Target::Same(share) => format!("1 ± {share:.2}"),
            Target::TimesAtMost(most) => format!("≤ {most:.2}"),
            Target::AtMost(most) => format!("≤ {}", self.unit.show(most)),
            Target::Nothing => String::new(),
        };
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        [
            self.what.clone(),
            self.unit.show(self.value),
            self.latency_us
                .map(|(p50, p99)| format!("{} / {}", milliseconds(p50), milliseconds(p99)))
                .unwrap_or_default(),
            self.limit.as_ref().map(|(name, limit)| format!("{} {name}", self.unit.show(*limit))).unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            target,
            met.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let target = match self.target {
            Target::Ratio(least) => json!({ "ratio_at_least": least }),
            Target::Same(share) => json!({ "ratio_from": 1.0 - share, "ratio_to": 1.0 + share }),
            Target::TimesAtMost(most) => json!({ "ratio_at_most": most }),
            Target::AtMost(most) => json!({ "at_most": most }),
            Target::Nothing => Value::Null,
        };
        json!({
            "what": self.what,
            "value": self.value,
            "unit": self.unit.name(),
            "p50_us": self.latency_us.map(|(p50, _)| p50),
            "p99_us": self.latency_us.map(|(_, p99)| p99),
            "limit": self.limit.as_ref().map(|(_, limit)| limit),
            "limit_what": self.limit.as_ref().map(|(name, _)| name),
            "ratio": self.ratio(),
            "target": target,
            "met": self.met(),
        })
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond => format!("{}/s", thousands(value)),
            Unit::MebibytesPerSecond => format!("{value:.0} MiB/s"),
            Unit::Mebibytes => format!("{value:.0} MiB"),
            Unit::Kibibytes => format!("{value:.1} KiB"),
            Unit::Milliseconds => format!("{value:.1} ms"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "per_second",
            Unit::MebibytesPerSecond => "mebibytes_per_second",
            Unit::Mebibytes => "mebibytes",
            Unit::Kibibytes => "kibibytes",
            Unit::Milliseconds => "milliseconds",
        }
    }
}

/// The conditions under which the figures were measured.
pub struct Conditions {
    /// Messages in the database.
    pub message_count: u64,
    /// The time of each measurement.
    pub duration: Duration,
    /// The version of PostgreSQL, if it was measured.
    pub postgres: Option<String>,
}

/// Prints the table and writes it to `bench/results/latest.json`.
pub fn publish(figures: &[Figure], conditions: &Conditions) -> Outcome<()> {
    println!("\n{}", table(figures));
    let (measured, met) =
        figures.iter().filter_map(Figure::met).fold((0, 0), |(all, met), this| (all + 1, met + u32::from(this)));
    println!("{met} of {measured} targets met. Latencies are p50 / p99 in ms.");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let taken_at = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).context("writing the time")?;
    let document = json!({
        "taken_at": taken_at,
        "cores": cores,
        "connections": CONNECTIONS,
        "messages": conditions.message_count,
        "seconds": conditions.duration.as_secs(),
        "postgres": conditions.postgres,
        "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
    });
    let folder = package_folder().join("bench/results");
    fs::create_dir_all(&folder).context(format!("creating {}", folder.display()))?;
    let path = folder.join("latest.json");
    fs::write(&path, format!("{document:#}\n")).context(format!("writing {}", path.display()))?;
    println!("Written to {}.", path.display());
    Ok(())
}

fn package_folder() -> PathBuf {
    // Cargo sets this variable when it runs a bench. The default is the folder in which the bench was compiled.
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

fn table(figures: &[Figure]) -> String {
    let head = ["what", "measured", "latency", "limit in the same run", "ratio", "target", ""].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(figures.iter().map(Figure::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat((*width).max(3))).collect();
            text.push_str(&format!("| {} |\n", rules.join(" | ")));
        }
    }
    text
}

fn milliseconds(microseconds: u32) -> String {
    format!("{:.2}", f64::from(microseconds) / 1e3)
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}
