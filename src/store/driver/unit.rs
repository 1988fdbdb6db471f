//! Units of work in a form in which the drivers need not know the types of their inputs and results.
//!
//! Invariant: a driver handles every unit of work with the same compiled code. The input and the result have other types in
//! each call. If the drivers were generic over these types, the compiler would generate the code of queues, transactions
//! and tasks two hundred times.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;

use super::environment::Work;
use crate::base::error::{Error, Result};

/// A unit of work over a connection `C`, and its outcome once it has run.
pub trait Unit<C>: Send {
    /// Runs the unit of work and stores the outcome in it. The unit can be run again.
    fn run<'a>(&'a mut self, conn: &'a mut C) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
    /// Replaces the outcome by a failure.
    fn fail(&mut self, error: Error);
    /// The error of the last run, if it failed.
    fn error(&self) -> Option<&Error>;
    /// Converts the unit for [`outcome`], which restores its type.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

struct Typed<C, I, T> {
    input: I,
    work: for<'a> fn(&'a mut C, &'a I) -> Work<'a, T>,
    outcome: Result<T>,
}

impl<C, I, T> Unit<C> for Typed<C, I, T>
where
    C: Send + 'static,
    I: Send + Sync + 'static,
    T: Send + 'static,
{
    fn run<'a>(&'a mut self, conn: &'a mut C) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move { self.outcome = (self.work)(conn, &self.input).await })
    }

    fn fail(&mut self, error: Error) {
        self.outcome = Err(error);
    }

    fn error(&self) -> Option<&Error> {
        self.outcome.as_ref().err()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A unit of work that has not run.
pub fn unit<C, I, T>(input: I, work: for<'a> fn(&'a mut C, &'a I) -> Work<'a, T>) -> Box<dyn Unit<C>>
where
    C: Send + 'static,
    I: Send + Sync + 'static,
    T: Send + 'static,
{
    Box::new(Typed { input, work, outcome: Err(Error::unavailable("the unit of work did not run")) })
}

/// The outcome of a unit that was created with the same types.
///
/// # Errors
/// Of the unit of work; [`Error::Internal`] for a unit with other types.
pub fn outcome<C, I, T>(unit: Box<dyn Unit<C>>) -> Result<T>
where
    C: 'static,
    I: 'static,
    T: 'static,
{
    match unit.into_any().downcast::<Typed<C, I, T>>() {
        Ok(typed) => typed.outcome,
        Err(_) => Err(Error::internal("a unit of work with other types came back")),
    }
}
