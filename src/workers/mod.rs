//! Every task that runs as long as the server, and the order in which they stop.
//!
//! Invariant: no such task is started anywhere else, so the supervisor names, watches and restarts all of them. State that must
//! survive the failure of a task is kept in the `App` or in [`Live`], never in the task.

pub mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::base::error::Result;
use crate::domain::files::sweep;
use crate::domain::messages::search;
use crate::domain::operations::{clock, housekeeping, restores};
use crate::domain::previews::link_previews;
use crate::domain::sending::{change_queue, scheduled, send_queue};
use crate::live::Live;
use crate::live::bus::{Bus, BusSettings};
use crate::mail;
pub use supervisor::TaskStates;
use supervisor::{Supervisor, Task};

const FATAL_FAULT: &str = "fatal-fault";
const TAILER: &str = "tailer";
const PRESENCE: &str = "presence";
const WEBHOOKS: &str = "webhooks";

/// The longest pause before the task of a queue is restarted. It is short because callers wait until their entries are written.
const LONGEST_QUEUE_PAUSE: Duration = Duration::from_secs(1);
/// How long the tasks of webhooks and presence may take to stop. The task of webhooks releases its leases. The task of presence
/// writes that this server has no online users any more.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long mails that wait may take to be sent while the server stops.
const MAIL_TIMEOUT: Duration = Duration::from_secs(5);

/// The tasks of one server.
pub struct Workers {
    app: Arc<App>,
    live: Arc<Live>,
    bus: Arc<Bus>,
    supervisor: Supervisor,
}

impl Workers {
    /// Starts the task that waits for a fatal fault of the storage and then calls `on_fatal_fault`. No other task runs before
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// [`Error::Internal`](crate::base::error::Error::Internal) if the settings of the bus cannot be used.
    pub fn new(app: &Arc<App>, live: &Arc<Live>, bus: &BusSettings, on_fatal_fault: fn(&str)) -> Result<Self> {
        let mut supervisor = Supervisor::new(Arc::clone(&app.metrics), live.stopping());
        supervisor.start(Task::new(FATAL_FAULT, app, move |app| async move {
            on_fatal_fault(&app.db.fatal_fault().wait().await);
        }));
        let bus = Arc::new(Bus::new(app, bus)?);
        Ok(Self { app: Arc::clone(app), live: Arc::clone(live), bus, supervisor })
    }

    /// The states of the tasks, for `/readyz` and for tests.
    pub const fn states(&self) -> &TaskStates {
        self.supervisor.states()
    }

    /// For tests: sets the recovery time of tasks that are started later. It is [`supervisor::RECOVERY_TIME`] otherwise.
    pub const fn set_recovery_time(&mut self, recovery_time: Duration) {
        self.supervisor.set_recovery_time(recovery_time);
    }

    /// Starts every task that this server needs.
    pub fn start(&mut self) {
        self.start_without(&[]);
    }

    /// For tests: starts every task except those in `left_out`, whose work the test does itself, step by step.
    pub fn start_without(&mut self, left_out: &[&str]) {
        for task in tasks(&self.app, &self.live, &self.bus) {
            if !left_out.contains(&task.name()) {
                self.supervisor.start(task);
            }
        }
    }

    /// Stops the tasks. Call it after [`Live::stop`] and after all connections have ended. The task that waits for a fatal fault
    /// runs until this value is dropped, because a fatal fault can still occur while the database is being closed.
    pub async fn stop(&mut self) {
        let close_mail = async {
            if let Some(mailer) = &self.app.mailer {
                mailer.close(MAIL_TIMEOUT).await;
            }
        };
        stop_in_order(&mut self.supervisor, close_mail).await;
    }
}

/// The tasks of webhooks and presence write to the database as they stop, so the other tasks run until then. Mail is last, because
/// the other tasks may still send some.
async fn stop_in_order(supervisor: &mut Supervisor, close_mail: impl Future<Output = ()>) {
    supervisor.end(&[TAILER], Duration::ZERO).await;
    supervisor.end(&[WEBHOOKS, PRESENCE], RELEASE_TIMEOUT).await;
    supervisor.abort_all_but(&[FATAL_FAULT, mail::TASK]);
    close_mail.await;
    supervisor.abort_all_but(&[FATAL_FAULT]);
}

/// The tasks that a server needs with these settings and this database.
fn tasks(app: &Arc<App>, live: &Arc<Live>, bus: &Arc<Bus>) -> Vec<Task> {
    let mut tasks = vec![
        Task::new(send_queue::TASK, app, |app| async move { app.sends.run().await })
            .with_longest_pause(LONGEST_QUEUE_PAUSE),
        Task::new("scheduled-sends", app, scheduled::run),
        Task::new("housekeeping", app, housekeeping::run),
        Task::new("clock", app, clock::run),
        Task::new("restores", app, restores::run),
        Task::new(TAILER, live, Live::run),
        Task::new(PRESENCE, live, Live::run_presence),
        Task::new(WEBHOOKS, live, Live::deliver_webhooks),
    ];
    if app.changes.is_used() {
        let task = Task::new(change_queue::TASK, app, |app| async move { app.changes.run().await });
        tasks.push(task.with_longest_pause(LONGEST_QUEUE_PAUSE));
    }
    if search::has_pending_entries(app) {
        tasks.push(Task::new("search-sorting", app, search::keep_sorted));
    }
    if app.files.is_some() {
        tasks.push(Task::new(sweep::TASK, app, sweep::run));
    }
    if app.link_previews.is_some() {
        tasks.push(Task::new(link_previews::TASK, app, link_previews::run));
    }
    if app.mailer.is_some() {
        tasks.push(Task::new(mail::TASK, app, |app| async move {
            if let Some(mailer) = &app.mailer {
                mailer.run().await;
            }
        }));
    }
    if !bus.is_local() {
        let bus = Arc::clone(bus);
        tasks.push(Task::new("bus", live, move |live| {
            let bus = Arc::clone(&bus);
            async move { bus.run(&live).await }
        }));
    }
    tasks
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use tokio::sync::watch;

    use super::*;
    use crate::base::metrics::Metrics;

    /// The endings of tasks, in their order.
    #[derive(Default)]
    struct Record(Mutex<Vec<String>>);

    impl Record {
        fn add(&self, entry: impl Into<String>) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry.into());
        }
    }

    /// Records that a task has ended, by returning or by being aborted.
    struct Ending(Arc<Record>, &'static str);

    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.add(self.1);
        }
    }

    #[tokio::test]
    async fn tasks_stop_in_the_right_order() {
        let stopping = watch::Sender::new(false);
        let mut supervisor = Supervisor::new(Arc::new(Metrics::new()), stopping.subscribe());
        let record = Arc::new(Record::default());
        for name in [FATAL_FAULT, TAILER, PRESENCE, WEBHOOKS, mail::TASK, send_queue::TASK, "clock"] {
            let stopping = stopping.subscribe();
            let stop_time = Duration::from_millis(if name == WEBHOOKS { 100 } else { 300 });
            supervisor.start(Task::new(name, &record, move |record| {
                let ending = Ending(record, name);
                let mut stopping = stopping.clone();
                async move {
                    let _ending = ending;
                    if [PRESENCE, WEBHOOKS].contains(&name) {
                        drop(stopping.wait_for(|stopping| *stopping).await);
                        tokio::time::sleep(stop_time).await;
                    } else {
                        std::future::pending::<()>().await;
                    }
                }
            }));
        }
        // By then every task has started.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stopping.send_replace(true);
        let close_mail = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            record.add("mail is closed");
        };
        stop_in_order(&mut supervisor, close_mail).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        record.add("stopped");
        drop(supervisor);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut ended = record.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The order of these two does not matter.
        ended[3..5].sort_unstable();
        assert_eq!(
            ended,
            [
                TAILER,
                WEBHOOKS,
                PRESENCE,
                "clock",
                send_queue::TASK,
                "mail is closed",
                mail::TASK,
                "stopped",
                FATAL_FAULT
            ]
        );
    }
}
