//! The fatal fault: a fault of storage after which this process acknowledges nothing.
//!
//! Invariant: a declared fault is never withdrawn. From then on the SQLite writer refuses all work and no checkpoint runs.
//! `serve` ends the process without closing the database, so the files stay as they were after the fault until the next
//! start.

use std::sync::Arc;

use tokio::sync::watch;

/// Holds the fatal fault once it is declared, and lets tasks wait for it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FatalFault(Arc<watch::Sender<Option<Arc<str>>>>);

impl Default for FatalFault {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl FatalFault {
    /// Declares a fault. `sentence` describes it to the operator. Only the first declared fault is kept.
    pub fn declare(&self, sentence: impl Into<Arc<str>>) {
        self.0.send_if_modified(|declared| {
            let first = declared.is_none();
            if first {
                *declared = Some(sentence.into());
            }
            first
        });
    }

    /// The declared fault, if there is one.
    pub fn declared(&self) -> Option<Arc<str>> {
        self.0.borrow().clone()
    }

    /// Waits until a fault is declared, and returns it.
    pub async fn wait(&self) -> Arc<str> {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(sentence) = receiver.borrow_and_update().clone() {
                return sentence;
            }
            if receiver.changed().await.is_err() {
                // Not reachable: `self` owns the sender, so it cannot be dropped while this waits.
                std::future::pending::<()>().await;
            }
        }
    }
}
