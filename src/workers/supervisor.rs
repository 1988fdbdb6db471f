//! Keeps tasks running: starts, names, watches, restarts and stops them.
//!
//! Invariants: a task that panics or returns is logged with its name, counted, and started again after a pause; a task that
//! keeps failing is known to `/readyz` until it has run for [`RECOVERY_TIME`]. Only a task that returns while the server stops
//! has done its work.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;

use crate::base::metrics::Metrics;
use crate::base::tasks::{PanicPoint, PanicSwitch};

/// The pause before a task is started again after its first failure; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A task that has run for this long has recovered: `/readyz` no longer names it, and its next failure counts as its first. One
/// time for both, so that no rhythm of failures makes `/readyz` alternate.
pub const RECOVERY_TIME: Duration = Duration::from_secs(60);
/// Failures without a recovery between them after which `/readyz` is 503.
const FAILURES_UNTIL_NOT_READY: u32 = 3;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task that runs as long as the server: its name, and a function that begins its work.
pub struct Task {
    name: &'static str,
    longest_pause: Duration,
    begin: Box<dyn Fn() -> Work + Send + Sync>,
}

impl Task {
    /// A task that works on `state`, which outlives a failure of the task.
    pub fn new<S, F>(name: &'static str, state: &Arc<S>, work: impl Fn(Arc<S>) -> F + Send + Sync + 'static) -> Self
    where
        S: Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let state = Arc::clone(state);
        Self { name, longest_pause: LONGEST_PAUSE, begin: Box::new(move || Box::pin(work(Arc::clone(&state)))) }
    }

    /// Shortens the longest pause before the task is started again.
    pub fn with_longest_pause(self, longest_pause: Duration) -> Self {
        Self { longest_pause, ..self }
    }

    /// The task's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// The owner of the tasks. They end when it is dropped.
pub struct Supervisor {
    states: TaskStates,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<bool>,
    recovery_time: Duration,
    running: BTreeMap<&'static str, JoinHandle<()>>,
}

impl Supervisor {
    /// Without tasks. `stopping` is true once the server stops.
    pub fn new(metrics: Arc<Metrics>, stopping: watch::Receiver<bool>) -> Self {
        let (states, running) = (TaskStates::default(), BTreeMap::new());
        Self { states, metrics, stopping, recovery_time: RECOVERY_TIME, running }
    }

    /// For tests: another recovery time for the tasks that are started from now on.
    pub const fn set_recovery_time(&mut self, recovery_time: Duration) {
        self.recovery_time = recovery_time;
    }

    /// What is known of the tasks.
    pub const fn states(&self) -> &TaskStates {
        &self.states
    }

    /// Starts a task. Must be called inside a tokio runtime.
    pub fn start(&mut self, task: Task) {
        let name = task.name;
        let state = Arc::new(TaskState::default());
        self.states.all().insert(name, Arc::clone(&state));
        let restarts = self.metrics.task_restarts(name);
        let (stopping, recovery_time) = (self.stopping.clone(), self.recovery_time);
        let watched = Watched { task, state, restarts, stopping, recovery_time };
        // Of the highest level, so that every filter of the log leaves the name in.
        let span = tracing::error_span!("worker", task = name);
        self.running.insert(name, tokio::spawn(watched.keep_running().instrument(span)));
    }

    /// Waits until some tasks have ended by themselves, and ends them after `limit`.
    pub async fn end(&mut self, names: &[&'static str], limit: Duration) {
        let ending: Vec<JoinHandle<()>> = names.iter().filter_map(|name| self.running.remove(name)).collect();
        let aborts: Vec<_> = ending.iter().map(JoinHandle::abort_handle).collect();
        drop(timeout(limit, futures_util::future::join_all(ending)).await);
        aborts.iter().for_each(tokio::task::AbortHandle::abort);
    }

    /// Ends every task at its next await, except some.
    pub fn abort_all_but(&mut self, kept: &[&'static str]) {
        self.running.retain(|name, task| {
            let stays = kept.contains(name);
            if !stays {
                task.abort();
            }
            stays
        });
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.abort_all_but(&[]);
    }
}

/// A task with what the supervisor knows of it.
struct Watched {
    task: Task,
    state: Arc<TaskState>,
    restarts: Counter,
    stopping: watch::Receiver<bool>,
    recovery_time: Duration,
}

impl Watched {
    async fn keep_running(self) {
        let name = self.task.name;
        let mut failures = 0;
        loop {
            match self.run(&mut failures).await {
                Ok(()) if *self.stopping.borrow() => return,
                Ok(()) => tracing::error!(task = name, "a task ended and is started again"),
                // The panic hook has printed its message.
                Err(_) => tracing::error!(task = name, "a task panicked and is started again"),
            }
            failures += 1;
            if failures >= FAILURES_UNTIL_NOT_READY {
                self.state.keeps_failing.store(true, Ordering::Relaxed);
            }
            sleep(pause_after(failures, self.task.longest_pause)).await;
            self.restarts.inc();
        }
    }

    /// Runs the task once, and forgets its failures when it has recovered.
    async fn run(&self, failures: &mut u32) -> std::thread::Result<()> {
        let work = Arc::clone(&self.state.panic_switch).scope(async {
            tokio::select! {
                biased;
                () = self.state.panic_wanted.notified() => panic!("a test made this task panic"),
                // Begun in here, so that a panic before the first await is caught as well.
                () = async { (self.task.begin)().await } => {}
            }
        });
        let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
        if let Ok(outcome) = timeout(self.recovery_time, &mut work).await {
            return outcome;
        }
        *failures = 0;
        self.state.keeps_failing.store(false, Ordering::Relaxed);
        work.await
    }
}

fn pause_after(failures: u32, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(longest)
}

/// What is known of every task. Cheap to clone.
#[derive(Clone, Default)]
pub struct TaskStates(Arc<Mutex<BTreeMap<&'static str, Arc<TaskState>>>>);

#[derive(Default)]
struct TaskState {
    keeps_failing: AtomicBool,
    panic_wanted: Notify,
    panic_switch: Arc<PanicSwitch>,
}

impl TaskStates {
    fn all(&self) -> MutexGuard<'_, BTreeMap<&'static str, Arc<TaskState>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the tasks that were started.
    pub fn names(&self) -> Vec<&'static str> {
        self.all().keys().copied().collect()
    }

    /// The name of a task that keeps failing, if there is one.
    pub fn failing(&self) -> Option<&'static str> {
        self.all().iter().find(|(_, state)| state.keeps_failing.load(Ordering::Relaxed)).map(|(name, _)| *name)
    }

    /// For tests: makes a task panic once, at its next await, or at its next start if it does not run. Nothing in a server
    /// calls this.
    pub fn make_panic(&self, name: &str) {
        if let Some(state) = self.all().get(name) {
            state.panic_wanted.notify_one();
        }
    }

    /// For tests: makes a task, or one that it has spawned, panic once in the middle of its work.
    pub fn make_panic_at(&self, name: &str, point: PanicPoint) {
        if let Some(state) = self.all().get(name) {
            state.panic_switch.set(point);
        }
    }

    /// For tests: whether a task has panicked since [`make_panic_at`](Self::make_panic_at).
    pub fn has_panicked(&self, name: &str) -> bool {
        self.all().get(name).is_some_and(|state| !state.panic_switch.is_set())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// How long something may take that must happen.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A supervisor, and what says that the server stops.
    fn supervisor() -> (Supervisor, watch::Sender<bool>) {
        let stopping = watch::Sender::new(false);
        (Supervisor::new(Arc::new(Metrics::new()), stopping.subscribe()), stopping)
    }

    fn restarts(supervisor: &Supervisor, name: &'static str) -> u64 {
        supervisor.metrics.task_restarts(name).get()
    }

    async fn wait_until(is_so: impl Fn() -> bool) {
        let waiting = async {
            while !is_so() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, waiting).await.expect("it does not happen in time");
    }

    #[test]
    fn pauses_double_up_to_their_limit() {
        let pauses_ms = |longest| (1..=11).map(move |failures| pause_after(failures, longest).as_millis());
        let expected_ms = [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000];
        assert!(pauses_ms(LONGEST_PAUSE).eq(expected_ms));
        assert!(pauses_ms(Duration::from_secs(1)).eq(expected_ms.map(|pause_ms| pause_ms.min(1_000))));
        assert_eq!(pause_after(u32::MAX, LONGEST_PAUSE), LONGEST_PAUSE);
    }

    #[tokio::test]
    async fn a_task_that_returns_is_started_again_until_the_server_stops() {
        let (mut supervisor, stopping) = supervisor();
        let runs = Arc::new(AtomicU64::new(0));
        supervisor.start(Task::new("short", &runs, |runs| async move {
            runs.fetch_add(1, Ordering::Relaxed);
        }));
        wait_until(|| supervisor.states.failing() == Some("short")).await;
        wait_until(|| restarts(&supervisor, "short") >= 3).await;
        stopping.send_replace(true);
        wait_until(|| supervisor.running["short"].is_finished()).await;
        // Each restart was a run, and the last run did not lead to another one.
        assert_eq!(runs.load(Ordering::Relaxed), restarts(&supervisor, "short") + 1);
    }

    #[tokio::test]
    async fn a_task_that_panics_while_the_server_stops_is_started_again() {
        let (mut supervisor, stopping) = supervisor();
        stopping.send_replace(true);
        let runs = Arc::new(AtomicU64::new(0));
        supervisor.start(Task::new("at the end", &runs, |runs| async move {
            assert!(runs.fetch_add(1, Ordering::Relaxed) > 0, "the first run panics");
        }));
        wait_until(|| supervisor.running["at the end"].is_finished()).await;
        assert_eq!((runs.load(Ordering::Relaxed), restarts(&supervisor, "at the end")), (2, 1));
    }

    #[tokio::test]
    async fn a_task_is_not_ready_until_it_has_run_for_the_recovery_time() {
        let (mut supervisor, _stopping) = supervisor();
        // Longer than each of the first pauses, which do not count.
        let recovery_time = Duration::from_secs(2);
        supervisor.set_recovery_time(recovery_time);
        let runs = Arc::new(AtomicU64::new(0));
        supervisor.start(Task::new("late", &runs, |runs| async move {
            assert!(runs.fetch_add(1, Ordering::Relaxed) >= 3, "the first runs panic");
            std::future::pending::<()>().await;
        }));
        wait_until(|| runs.load(Ordering::Relaxed) == 4).await;
        let works_since = std::time::Instant::now();
        assert_eq!(supervisor.states.failing(), Some("late"));
        wait_until(|| supervisor.states.failing().is_none()).await;
        assert!(works_since.elapsed() >= recovery_time - Duration::from_millis(100), "{:?}", works_since.elapsed());
        // Failures before the recovery do not count.
        supervisor.states.make_panic("late");
        wait_until(|| restarts(&supervisor, "late") == 4).await;
        assert_eq!(supervisor.states.failing(), None);
    }

    #[tokio::test]
    async fn a_panic_is_caught_where_a_test_wants_it() {
        let (mut supervisor, _stopping) = supervisor();
        let wake = Arc::new(Notify::new());
        supervisor.start(Task::new("points", &wake, |wake| async move {
            loop {
                wake.notified().await;
                crate::base::tasks::panic_point(PanicPoint::BatchTaken);
                drop(crate::base::tasks::spawn("part", async {
                    crate::base::tasks::panic_point(PanicPoint::BatchCommitted);
                }));
            }
        }));
        for (point, restarts_after) in [(PanicPoint::BatchCommitted, 0), (PanicPoint::BatchTaken, 1)] {
            supervisor.states.make_panic_at("points", point);
            assert!(!supervisor.states.has_panicked("points"));
            wake.notify_one();
            wait_until(|| supervisor.states.has_panicked("points")).await;
            wait_until(|| restarts(&supervisor, "points") == restarts_after).await;
        }
    }
}
