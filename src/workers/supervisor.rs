//! The supervisor: starts, names, watches, restarts and stops tasks.
//!
//! Invariants: if a task panics or returns, the supervisor logs its name, counts the failure, and restarts it after a pause. A task
//! that keeps failing makes `/readyz` answer 503 until the task has run for [`RECOVERY_TIME`]. A task may return only while the
//! server stops; it is then not restarted.

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

/// The pause before a task is restarted after its first failure. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A task that has run for this long has recovered: `/readyz` no longer names it, and its next failure counts as its first. The
/// time is the same for both, so that a task that fails at regular intervals does not make `/readyz` alternate between 200 and 503.
pub const RECOVERY_TIME: Duration = Duration::from_secs(60);
/// After this many failures without a recovery between them, `/readyz` answers 503.
const FAILURES_UNTIL_NOT_READY: u32 = 3;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task that runs as long as the server: its name, and a function that starts its work.
pub struct Task {
    name: &'static str,
    longest_pause: Duration,
    start: Box<dyn Fn() -> Work + Send + Sync>,
}

impl Task {
    /// A task that runs `work` on `state`. The state survives a failure of the task.
    pub fn new<S, F>(name: &'static str, state: &Arc<S>, work: impl Fn(Arc<S>) -> F + Send + Sync + 'static) -> Self
    where
        S: Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let state = Arc::clone(state);
        Self { name, longest_pause: LONGEST_PAUSE, start: Box::new(move || Box::pin(work(Arc::clone(&state)))) }
    }

    /// Sets the longest pause before the task is restarted.
    pub fn with_longest_pause(self, longest_pause: Duration) -> Self {
        Self { longest_pause, ..self }
    }

    /// The task's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// Owns the tasks. They end when it is dropped.
pub struct Supervisor {
    states: TaskStates,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<bool>,
    recovery_time: Duration,
    running: BTreeMap<&'static str, JoinHandle<()>>,
}

impl Supervisor {
    /// A supervisor without tasks. The value of `stopping` becomes true when the server stops.
    pub fn new(metrics: Arc<Metrics>, stopping: watch::Receiver<bool>) -> Self {
        let (states, running) = (TaskStates::default(), BTreeMap::new());
        Self { states, metrics, stopping, recovery_time: RECOVERY_TIME, running }
    }

    /// For tests: sets the recovery time of tasks that are started later.
    pub const fn set_recovery_time(&mut self, recovery_time: Duration) {
        self.recovery_time = recovery_time;
    }

    /// The states of the tasks.
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
        let supervised = SupervisedTask { task, state, restarts, stopping, recovery_time };
        // The level is `error`, so that the name is logged with every log filter.
        let span = tracing::error_span!("worker", task = name);
        self.running.insert(name, tokio::spawn(supervised.keep_running().instrument(span)));
    }

    /// Waits until the named tasks have ended by themselves. Aborts them after `limit`.
    pub async fn end(&mut self, names: &[&'static str], limit: Duration) {
        let ending: Vec<JoinHandle<()>> = names.iter().filter_map(|name| self.running.remove(name)).collect();
        let aborts: Vec<_> = ending.iter().map(JoinHandle::abort_handle).collect();
        drop(timeout(limit, futures_util::future::join_all(ending)).await);
        aborts.iter().for_each(tokio::task::AbortHandle::abort);
    }

    /// Aborts every task at its next await, except those in `kept`.
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

/// A task and the supervisor's data about it.
struct SupervisedTask {
    task: Task,
    state: Arc<TaskState>,
    restarts: Counter,
    stopping: watch::Receiver<bool>,
    recovery_time: Duration,
}

impl SupervisedTask {
    async fn keep_running(self) {
        let name = self.task.name;
        let mut failures = 0;
        loop {
            match self.run(&mut failures).await {
                Ok(()) if *self.stopping.borrow() => return,
                Ok(()) => tracing::error!(task = name, "a task ended; it is restarted"),
                // The panic hook has printed the panic message.
                Err(_) => tracing::error!(task = name, "a task panicked; it is restarted"),
            }
            failures += 1;
            if failures >= FAILURES_UNTIL_NOT_READY {
                self.state.keeps_failing.store(true, Ordering::Relaxed);
            }
            sleep(pause_after(failures, self.task.longest_pause)).await;
            self.restarts.inc();
        }
    }

    /// Runs the task once. Resets `failures` when the task has run for the recovery time.
    async fn run(&self, failures: &mut u32) -> std::thread::Result<()> {
        let work = Arc::clone(&self.state.panic_switch).scope(async {
            tokio::select! {
                biased;
                () = self.state.panic_wanted.notified() => panic!("a test made this task panic"),
                // Started inside this future, so that a panic before the first await is caught too.
                () = async { (self.task.start)().await } => {}
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

/// The states of all tasks. Cheap to clone.
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

    /// The names of all tasks that were started.
    pub fn names(&self) -> Vec<&'static str> {
        self.all().keys().copied().collect()
    }

    /// The name of a task that keeps failing, if there is one.
    pub fn failing(&self) -> Option<&'static str> {
        self.all().iter().find(|(_, state)| state.keeps_failing.load(Ordering::Relaxed)).map(|(name, _)| *name)
    }

    /// For tests: makes a task panic once, at its next await, or at its next start if it is not running. A running server never
    /// calls this.
    pub fn make_panic(&self, name: &str) {
        if let Some(state) = self.all().get(name) {
            state.panic_wanted.notify_one();
        }
    }

    /// For tests: makes a task, or a task that it has spawned, panic once at a point in the middle of its work.
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

    /// How long [`wait_until`] waits.
    const WAIT_LIMIT: Duration = Duration::from_secs(20);

    /// A supervisor, and the sender with which a test says that the server stops.
    fn supervisor() -> (Supervisor, watch::Sender<bool>) {
        let stopping = watch::Sender::new(false);
        (Supervisor::new(Arc::new(Metrics::new()), stopping.subscribe()), stopping)
    }

    fn restarts(supervisor: &Supervisor, name: &'static str) -> u64 {
        supervisor.metrics.task_restarts(name).get()
    }

    async fn wait_until(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WAIT_LIMIT, waiting).await.expect("the condition is true in time");
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
    async fn a_task_that_returns_is_restarted_until_the_server_stops() {
        let (mut supervisor, stopping) = supervisor();
        let runs = Arc::new(AtomicU64::new(0));
        supervisor.start(Task::new("short", &runs, |runs| async move {
            runs.fetch_add(1, Ordering::Relaxed);
        }));
        wait_until(|| supervisor.states.failing() == Some("short")).await;
        wait_until(|| restarts(&supervisor, "short") >= 3).await;
        stopping.send_replace(true);
        wait_until(|| supervisor.running["short"].is_finished()).await;
        // The first start and each restart ran the task once. The last run was not followed by a restart.
        assert_eq!(runs.load(Ordering::Relaxed), restarts(&supervisor, "short") + 1);
    }

    #[tokio::test]
    async fn a_task_that_panics_while_the_server_stops_is_restarted() {
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
    async fn a_task_counts_as_failing_until_it_has_run_for_the_recovery_time() {
        let (mut supervisor, _stopping) = supervisor();
        // Longer than the first pauses, because the time in which the task does not run must not count.
        let recovery_time = Duration::from_secs(2);
        supervisor.set_recovery_time(recovery_time);
        let runs = Arc::new(AtomicU64::new(0));
        supervisor.start(Task::new("late", &runs, |runs| async move {
            assert!(runs.fetch_add(1, Ordering::Relaxed) >= 3, "the first runs panic");
            std::future::pending::<()>().await;
        }));
        wait_until(|| runs.load(Ordering::Relaxed) == 4).await;
        let running_since = std::time::Instant::now();
        assert_eq!(supervisor.states.failing(), Some("late"));
        wait_until(|| supervisor.states.failing().is_none()).await;
        assert!(running_since.elapsed() >= recovery_time - Duration::from_millis(100), "{:?}", running_since.elapsed());
        // Failures before the recovery do not count.
        supervisor.states.make_panic("late");
        wait_until(|| restarts(&supervisor, "late") == 4).await;
        assert_eq!(supervisor.states.failing(), None);
    }

    #[tokio::test]
    async fn a_task_panics_at_the_point_that_a_test_chooses() {
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
