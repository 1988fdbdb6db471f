//! A fault of storage after which this process must acknowledge nothing more.
//!
//! Invariant: once declared it stays. The writer refuses everything from then on, no checkpoint runs, and `serve` ends the
//! process without closing the database, so that the next start finds the files as the fault left them.

use std::sync::Arc;

use tokio::sync::watch;

/// Where such a fault is declared, and waited for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FatalFault(Arc<watch::Sender<Option<Arc<str>>>>);

impl Default for FatalFault {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl FatalFault {
    /// Declares a fault, as a sentence for the operator. The first one stays.
    pub fn declare(&self, sentence: impl Into<Arc<str>>) {
        self.0.send_if_modified(|declared| {
            let first = declared.is_none();
            if first {
                *declared = Some(sentence.into());
            }
            first
        });
    }

    /// The fault, if there was one.
    pub fn declared(&self) -> Option<Arc<str>> {
        self.0.borrow().clone()
    }

    /// Waits for a fault.
    pub async fn wait(&self) -> Arc<str> {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(sentence) = receiver.borrow_and_update().clone() {
                return sentence;
            }
            if receiver.changed().await.is_err() {
                // The sender is ours: it does not go first.
                std::future::pending::<()>().await;
            }
        }
    }
}
