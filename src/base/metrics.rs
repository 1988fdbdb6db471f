//! The metrics of the server, in the text formats of OpenMetrics and of Prometheus.
//!
//! Invariant: labels contain fixed words, route templates, methods and statuses, and never text of a caller.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::process_metrics::ProcessMetrics;

/// The labels of answered requests.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The method, or `OTHER`.
    pub method: &'static str,
    /// The template of the route, or `unmatched`.
    pub route: String,
    /// The HTTP status of the answer.
    pub status: u16,
}

/// The labels of a route.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteLabels {
    /// The template of the route, or `unmatched`.
    pub route: String,
}

/// The labels of queues.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WorkLabels {
    /// The queue: `read` or `write` on SQLite, `pool` or `change` on PostgreSQL, `send` on both.
    pub work: &'static str,
}

/// The labels of an outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// Of requests for GIFs `answered` or `failed`; of mails `sent` or `failed`; of uploads `stored`, `refused` or `failed`;
    /// of attempts to deliver to a webhook `delivered` or `failed`;
    /// of link previews see [`Metrics::link_previews`].
    pub outcome: &'static str,
}

/// The labels of a task that runs as long as the server.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TaskLabels {
    /// The name of the task.
    pub task: &'static str,
}

/// The labels of the build.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    commit: &'static str,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    /// Answered requests.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds from the head of a request to the head of its answer.
    pub request_duration_seconds: Family<RouteLabels, Histogram>,
    /// Open connections.
    pub connections: Gauge,
    /// Connections refused because the limit was reached.
    pub connections_refused: Counter,
    /// Passwords hashed or verified.
    pub password_hashes: Counter,
    /// Units of work in one commit.
    pub commit_batch_size: Histogram,
    /// Sends in one unit of work.
    pub send_batch_size: Histogram,
    /// Seconds that a COMMIT took, including its fsync.
    pub commit_duration_seconds: Histogram,
    /// Entries that wait in a queue.
    pub queue_length: Family<WorkLabels, Gauge>,
    /// Busy database connections: SQLite's threads, or the connections of the pool.
    pub pool_in_use: Gauge,
    /// The largest number of database connections.
    pub pool_size: Gauge,
    /// Bytes in SQLite's write-ahead log at the last measurement.
    pub wal_size_bytes: Gauge,
    /// Reads that found a damaged message.
    pub damaged_messages: Counter,
    /// Open WebSockets.
    pub sockets: Gauge,
    /// Readers of events.
    pub subscriptions: Gauge,
    /// Events put into the queues of readers.
    pub events_delivered: Counter,
    /// Mails that an SMTP server accepted, and mails that were given up.
    pub mails: Family<OutcomeLabels, Counter>,
    /// Uploads that were stored, refused because of a limit or of their content, or failed because of the server.
    pub uploads: Family<OutcomeLabels, Counter>,
    /// Requests to the service for GIFs.
    pub gif_requests: Family<OutcomeLabels, Counter>,
    /// Previews of links that were made, and the reasons why others were not.
    pub link_previews: Family<OutcomeLabels, Counter>,
    /// Stored files and thumbnails at the last count.
    pub files: Gauge,
    /// The bytes of all stored files and thumbnails at the last count.
    pub files_size_bytes: Gauge,
    /// Attempts to deliver an event to a webhook.
    pub webhook_attempts: Family<OutcomeLabels, Counter>,
    /// Deliveries to webhooks that wait for their first or next attempt, at the last count.
    pub webhook_deliveries_pending: Gauge,
    /// Deliveries that were given up and are still in the list of their webhook, at the last count.
    pub webhook_deliveries_dead: Gauge,
    /// The time since the oldest event that waits for its delivery, at the last count.
    pub webhook_oldest_pending_age_seconds: Gauge<f64, AtomicU64>,
    /// Webhooks that are disabled because their receiver answered 410, at the last count.
    pub webhooks_gone: Gauge,
    /// Restarts of tasks that panicked or ended.
    pub task_restarts: Family<TaskLabels, Counter>,
    /// Seconds by which the machine's clock is ahead of the database's.
    pub clock_skew_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics with the value 0.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        let all = registry.sub_registry_with_prefix("posthaste");
        let build: Family<BuildLabels, Gauge> = register(all, "build_info", "The build of this server; always 1");
        let commit = env!("POSTHASTE_BUILD_COMMIT");
        build.get_or_create_owned(&BuildLabels { version: env!("CARGO_PKG_VERSION"), commit }).set(1);
        let metrics = Self {
            requests: register(all, "http_requests", "Answered requests"),
            request_duration_seconds: register_with_unit(
                all,
                "http_request_duration",
                "Time from the head of a request to the head of its answer",
                Unit::Seconds,
                Family::new_with_constructor(request_histogram),
            ),
            connections: register(all, "http_connections", "Open connections"),
            connections_refused: register(all, "http_connections_refused", "Connections refused at the limit"),
            sockets: register(all, "live_sockets", "Open WebSockets"),
            subscriptions: register(all, "live_subscriptions", "Readers of events"),
            events_delivered: register(all, "live_events_delivered", "Events put into the queues of readers"),
            password_hashes: register(all, "password_hashes", "Passwords hashed or verified"),
            commit_batch_size: register_histogram(
                all,
                "store_commit_batch_size",
                "Units of work in one commit",
                batch_histogram(),
            ),
            send_batch_size: register_histogram(
                all,
                "store_send_batch_size",
                "Sends in one unit of work",
                batch_histogram(),
            ),
            commit_duration_seconds: register_with_unit(
                all,
                "store_commit_duration",
                "Duration of a COMMIT, including its fsync",
                Unit::Seconds,
                commit_histogram(),
            ),
            queue_length: register(
                all,
                "store_queue_length",
                "Entries waiting to read, write, get a connection, send or change",
            ),
            pool_in_use: register(all, "store_pool_in_use", "Busy database connections"),
            pool_size: register(all, "store_pool_size", "Largest number of database connections"),
            wal_size_bytes: register_with_unit(
                all,
                "store_wal_size",
                "Size of SQLite's write-ahead log",
                Unit::Bytes,
                Gauge::default(),
            ),
            damaged_messages: register(
                all,
                "store_damaged_messages",
                "Reads of a message that did not match its digest",
            ),
            mails: register(all, "mails", "Mails sent and mails given up"),
            uploads: register(all, "uploads", "Uploads stored, refused and failed"),
            gif_requests: register(all, "gif_requests", "Requests to the service for GIFs, answered and failed"),
            link_previews: register(all, "link_previews", "Link previews made, and messages that got none"),
            files: register(all, "files", "Stored files and thumbnails at the last count"),
            files_size_bytes: register_with_unit(
                all,
                "files_size",
                "Size of all stored files and thumbnails at the last count",
                Unit::Bytes,
                Gauge::default(),
            ),
            webhook_attempts: register(all, "webhook_attempts", "Attempts to deliver an event, delivered and failed"),
            webhook_deliveries_pending: register(
                all,
                "webhook_deliveries_pending",
                "Deliveries that wait for their first or next attempt, at the last count",
            ),
            webhook_deliveries_dead: register(
                all,
                "webhook_deliveries_dead",
                "Deliveries that were given up and are still listed, at the last count",
            ),
            webhook_oldest_pending_age_seconds: register_with_unit(
                all,
                "webhook_oldest_pending_age",
                "Time since the oldest event that waits for its delivery, at the last count",
                Unit::Seconds,
                Gauge::default(),
            ),
            webhooks_gone: register(
                all,
                "webhooks_gone",
                "Webhooks disabled because their receiver answered 410, at the last count",
            ),
            task_restarts: register(all, "task_restarts", "Restarts of tasks that panicked or ended"),
            clock_skew_seconds: register_with_unit(
                all,
                "clock_skew",
                "Time by which the machine's clock is ahead of the database's",
                Unit::Seconds,
                Gauge::default(),
            ),
            registry,
        };
        metrics.show_zeros();
        metrics
    }

    /// Creates the counters whose labels are known. Without this, a rate would miss the first increase, and a dashboard would show no
    /// data instead of zero.
    fn show_zeros(&self) {
        for outcome in ["sent", "failed"] {
            self.mails(outcome);
        }
        for outcome in ["stored", "refused", "failed"] {
            self.uploads(outcome);
        }
        for outcome in ["answered", "failed"] {
            self.gif_requests(outcome);
        }
        for outcome in ["made", "none", "failed", "limited", "dropped"] {
            self.link_previews(outcome);
        }
        for outcome in ["delivered", "failed"] {
            self.webhook_attempts(outcome);
        }
    }

    /// Renders all metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// The formatter fails.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Renders all metrics in the text format of Prometheus, version 0.0.4. In it, a counter is described under the name of its
    /// samples, which ends in `_total`, and there are no units.
    ///
    /// # Errors
    /// The formatter fails.
    pub fn render_text(&self) -> Result<String, fmt::Error> {
        let rendered = self.render()?;
        let counters: HashSet<&str> =
            rendered.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let mut text = String::with_capacity(rendered.len());
        for line in rendered.lines() {
            if line == "# EOF" || line.starts_with("# UNIT ") {
                continue;
            }
            let described = ["# HELP ", "# TYPE "].into_iter().find_map(|head| Some((head, line.strip_prefix(head)?)));
            match described.and_then(|(head, rest)| Some((head, rest.split_once(' ')?))) {
                Some((head, (name, rest))) if counters.contains(name) => {
                    writeln!(text, "{head}{name}_total {rest}")?;
                }
                _ => writeln!(text, "{line}")?,
            }
        }
        Ok(text)
    }

    /// Counts one entry in the queue `work` until the result is dropped. If the caller disconnects, the future of the request is
    /// dropped, and the result with it.
    pub fn enter_queue(&self, work: &'static str) -> InQueue {
        let length = self.queue_length.get_or_create_owned(&WorkLabels { work });
        length.inc();
        InQueue(length)
    }

    /// The counter of mails with an outcome: `sent` or `failed`.
    pub fn mails(&self, outcome: &'static str) -> Counter {
        self.mails.get_or_create_owned(&OutcomeLabels { outcome })
    }

    /// The counter of uploads with an outcome: `stored`, `refused` or `failed`.
    pub fn uploads(&self, outcome: &'static str) -> Counter {
        self.uploads.get_or_create_owned(&OutcomeLabels { outcome })
    }

    /// The counter of requests to the service for GIFs with an outcome: `answered` or `failed`.
    pub fn gif_requests(&self, outcome: &'static str) -> Counter {
        self.gif_requests.get_or_create_owned(&OutcomeLabels { outcome })
    }

    /// The counter of link previews with an outcome: `made`; `none` if the page has no title or the message has changed; `failed`
    /// if the page cannot be fetched; `limited` by the limit of the sender; `dropped` because the queue was full.
    pub fn link_previews(&self, outcome: &'static str) -> Counter {
        self.link_previews.get_or_create_owned(&OutcomeLabels { outcome })
    }

    /// The counter of attempts to deliver to a webhook with an outcome: `delivered` or `failed`.
    pub fn webhook_attempts(&self, outcome: &'static str) -> Counter {
        self.webhook_attempts.get_or_create_owned(&OutcomeLabels { outcome })
    }

    /// The counter of restarts of a task.
    pub fn task_restarts(&self, task: &'static str) -> Counter {
        self.task_restarts.get_or_create_owned(&TaskLabels { task })
    }
}

/// An entry in a queue. Counted until it is dropped.
pub struct InQueue(Gauge);

impl Drop for InQueue {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Creates a metric, registers it and returns it. `/metrics` shows metrics in the order in which they are registered.
fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn register_histogram(registry: &mut Registry, name: &str, help: &str, histogram: Histogram) -> Histogram {
    registry.register(name, help, histogram.clone());
    histogram
}

fn register_with_unit<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, unit: Unit, metric: M) -> M {
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

fn request_histogram() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

fn commit_histogram() -> Histogram {
    Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0])
}

fn batch_histogram() -> Histogram {
    Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
}
