//! A future that the simulation polls step by step.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// How long to wait for an answer of the database. No answer takes this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A future that makes progress only when the simulation polls it.
pub struct Running<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(Mutex<bool>, Condvar);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}

impl<T> Running<T> {
    pub fn new(future: impl Future<Output = T> + 'static) -> Self {
        Self { future: Box::pin(future), woken: Arc::default() }
    }

    pub fn poll(&mut self) -> Option<T> {
        *self.woken.0.lock().unwrap() = false;
        match self.future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&self.woken)))) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    /// Waits until the database has answered. Then the order of reads and other steps depends only on the simulation.
    pub fn wait(&self) {
        let waiting = self.woken.1.wait_timeout_while(self.woken.0.lock().unwrap(), ANSWER_TIMEOUT, |woken| !*woken);
        assert!(!waiting.unwrap().1.timed_out(), "the database answers in time");
    }

    /// Polls until the future is ready.
    pub fn finish(mut self) -> T {
        loop {
            match self.poll() {
                Some(outcome) => return outcome,
                None => self.wait(),
            }
        }
    }
}
