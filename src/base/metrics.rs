//! What the server counts about itself, in Prometheus's terms.
//!
//! Invariant: labels hold route templates, methods and statuses, never anything a caller wrote.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Of one finished request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The method, or `OTHER`.
    pub method: &'static str,
    /// The route's template, or `unmatched`.
    pub route: String,
    /// The status answered.
    pub status: u16,
}

/// Of one route.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RouteLabels {
    /// The route's template, or `unmatched`.
    pub route: String,
}

/// Of one kind of work in the store.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WorkLabels {
    /// `read` and `write` on SQLite, `pool` on PostgreSQL, `send` on both.
    pub work: &'static str,
}

/// Of what became of something.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `sent` or `failed`.
    pub outcome: &'static str,
}

/// Of one task that runs as long as the server.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct TaskLabels {
    /// Its name.
    pub task: &'static str,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds from the head of a request to the head of its answer.
    pub request_duration_seconds: Family<RouteLabels, Histogram>,
    /// Connections open.
    pub connections: Gauge,
    /// Connections refused because the limit was reached.
    pub connections_refused: Counter,
    /// Passwords hashed or verified.
    pub password_hashes: Counter,
    /// Units of work that one commit made durable.
    pub commit_batch_size: Histogram,
    /// Sends that one unit of work carried.
    pub send_batch_size: Histogram,
    /// Seconds that a COMMIT took, its fsync included.
    pub commit_duration_seconds: Histogram,
    /// Work waiting for the database.
    pub queue_length: Family<WorkLabels, Gauge>,
    /// Database connections that are doing work: SQLite's threads, or the pool's connections.
    pub pool_in_use: Gauge,
    /// Database connections there may be.
    pub pool_size: Gauge,
    /// Bytes in SQLite's write-ahead log when it was last looked at.
    pub wal_size_bytes: Gauge,
    /// Reads that found a damaged message.
    pub damaged_messages: Counter,
    /// WebSockets open.
    pub sockets: Gauge,
    /// Readers of events.
    pub subscriptions: Gauge,
    /// Events put into the queues of readers.
    pub events_delivered: Counter,
    /// Mails that an SMTP server took, and mails that were given up.
    pub mails: Family<OutcomeLabels, Counter>,
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
    /// All metrics at nought.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("posthaste");
        let metrics = Self {
            requests: Family::default(),
            request_duration_seconds: Family::new_with_constructor(request_histogram),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            password_hashes: Counter::default(),
            commit_batch_size: batch_histogram(),
            send_batch_size: batch_histogram(),
            commit_duration_seconds: commit_histogram(),
            queue_length: Family::default(),
            pool_in_use: Gauge::default(),
            pool_size: Gauge::default(),
            wal_size_bytes: Gauge::default(),
            damaged_messages: Counter::default(),
            sockets: Gauge::default(),
            subscriptions: Gauge::default(),
            events_delivered: Counter::default(),
            mails: Family::default(),
            task_restarts: Family::default(),
            clock_skew_seconds: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests answered", metrics.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "From the head of a request to the head of its answer",
            Unit::Seconds,
            metrics.request_duration_seconds.clone(),
        );
        registry.register("http_connections", "Connections open", metrics.connections.clone());
        registry.register(
            "http_connections_refused",
            "Connections refused at the limit",
            metrics.connections_refused.clone(),
        );
        registry.register("live_sockets", "WebSockets open", metrics.sockets.clone());
        registry.register("live_subscriptions", "Readers of events", metrics.subscriptions.clone());
        registry.register(
            "live_events_delivered",
            "Events put into the queues of readers",
            metrics.events_delivered.clone(),
        );
        registry.register("password_hashes", "Passwords hashed or verified", metrics.password_hashes.clone());
        registry.register(
            "store_commit_batch_size",
            "Units of work that one commit made durable",
            metrics.commit_batch_size.clone(),
        );
        registry.register(
            "store_send_batch_size",
            "Sends that one unit of work carried",
            metrics.send_batch_size.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "What a COMMIT took, its fsync included",
            Unit::Seconds,
            metrics.commit_duration_seconds.clone(),
        );
        registry.register("store_queue_length", "Work waiting for the database", metrics.queue_length.clone());
        registry.register("store_pool_in_use", "Database connections at work", metrics.pool_in_use.clone());
        registry.register("store_pool_size", "Database connections there may be", metrics.pool_size.clone());
        registry.register_with_unit(
            "store_wal_size",
            "SQLite's write-ahead log",
            Unit::Bytes,
            metrics.wal_size_bytes.clone(),
        );
        registry.register(
            "store_damaged_messages",
            "Reads that found a message that does not match its digest",
            metrics.damaged_messages.clone(),
        );
        registry.register("mails", "Mails sent, and mails given up", metrics.mails.clone());
        registry.register("task_restarts", "Restarts of tasks that panicked or ended", metrics.task_restarts.clone());
        registry.register_with_unit(
            "clock_skew",
            "How far the machine's clock is ahead of the database's",
            Unit::Seconds,
            metrics.clock_skew_seconds.clone(),
        );
        Self { registry, ..metrics }
    }

    /// The text that a Prometheus server scrapes.
    ///
    /// # Errors
    /// Only when the formatter fails.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts one piece of work in the queue of `work` until the result is dropped, also when its caller goes away.
    pub fn enter_queue(&self, work: &'static str) -> InQueue {
        let length = self.queue_length.get_or_create_owned(&WorkLabels { work });
        length.inc();
        InQueue(length)
    }

    /// The counter of mails with one outcome, `sent` or `failed`.
    pub fn mails(&self, outcome: &'static str) -> Counter {
        self.mails.get_or_create_owned(&OutcomeLabels { outcome })
    }

    /// The counter of a task's restarts.
    pub fn task_restarts(&self, task: &'static str) -> Counter {
        self.task_restarts.get_or_create_owned(&TaskLabels { task })
    }
}

/// One piece of work in a queue.
pub struct InQueue(Gauge);

impl Drop for InQueue {
    fn drop(&mut self) {
        self.0.dec();
    }
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
