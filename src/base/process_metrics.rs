//! The metrics of the process, under the names that the client libraries of Prometheus use.
//!
//! Invariant: they are read when they are asked for. On a system without `/proc`, those that come from there are left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// Reads the metrics of this process.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(Usage { cpu_s, resident_bytes, start_time_s }) = Usage::read() {
            let cpu = ConstCounter::new(cpu_s);
            let help = "User and system CPU time";
            cpu.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)?;
            let memory = ConstGauge::new(resident_bytes);
            let help = "Resident memory";
            let unit = Some(&Unit::Bytes);
            memory.encode(encoder.encode_descriptor("process_resident_memory", help, unit, memory.metric_type())?)?;
            if let Some(start_time_s) = start_time_s {
                let start = ConstGauge::new(start_time_s);
                let help = "Start of the process, as seconds since 1970";
                let unit = Some(&Unit::Seconds);
                start.encode(encoder.encode_descriptor("process_start_time", help, unit, start.metric_type())?)?;
            }
        }
        if let Some(open) = open_fds() {
            let open = ConstGauge::new(open);
            let help = "Open file descriptors";
            open.encode(encoder.encode_descriptor("process_open_fds", help, None, open.metric_type())?)?;
        }
        // `None` means that there is no limit.
        if let Some(most) = getrlimit(Resource::Nofile).current {
            let most = ConstGauge::new(i64::try_from(most).unwrap_or(i64::MAX));
            let help = "Largest number of open file descriptors";
            most.encode(encoder.encode_descriptor("process_max_fds", help, None, most.metric_type())?)?;
        }
        Ok(())
    }
}

/// What `/proc/self/stat` says.
struct Usage {
    cpu_s: f64,
    resident_bytes: i64,
    /// `None` if the time at which the machine was started is unknown.
    start_time_s: Option<f64>,
}

impl Usage {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the name in parentheses, which may contain spaces and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // The third field of proc(5) is the first one here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks_per_s = clock_ticks_per_second() as f64;
        let resident_bytes = field(24)?.checked_mul(page_size() as u64)?;
        let start_ticks = field(22)? as f64;
        Some(Self {
            cpu_s: (field(14)? + field(15)?) as f64 / ticks_per_s,
            resident_bytes: i64::try_from(resident_bytes).ok()?,
            start_time_s: boot_time_s().map(|boot_s| boot_s + start_ticks / ticks_per_s),
        })
    }
}

fn boot_time_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn open_fds() -> Option<i64> {
    // The folder itself is open while it is read.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    i64::try_from(count).ok()
}
