//! What can go wrong, said once for every floor.
//!
//! Invariant: what a caller may read (`code`, `detail`) is kept apart from what only the log may hold (the source of
//! [`Error::Internal`] and [`Error::Unavailable`]).

use std::borrow::Cow;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause that only the log sees.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Characters that are shown of a stored word in the log.
const SHOWN_WORD_CHARACTERS: usize = 40;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field as the caller wrote it, dots between levels.
    pub field: Cow<'static, str>,
    /// A stable snake_case word.
    pub code: &'static str,
    /// A sentence that says what to do.
    pub detail: Cow<'static, str>,
}

impl FieldError {
    /// One field, one reason.
    pub fn new(field: impl Into<Cow<'static, str>>, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), code, detail: detail.into() }
    }
}

/// The errors of the domain. Each carries, or is, a stable `code`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No valid credentials.
    #[error("unauthenticated")]
    Unauthenticated,
    /// An attempt to log in that failed, or needs more.
    #[error("log-in failed: {code}")]
    LogInFailed {
        /// Why, as a stable word.
        code: &'static str,
        /// What to do, as a sentence.
        detail: &'static str,
    },
    /// Too often: again after `retry_after_s` seconds.
    #[error("rate limited: {code}")]
    RateLimited {
        /// Which limit, as a stable word.
        code: &'static str,
        /// Seconds until another try is let through.
        retry_after_s: u32,
    },
    /// It does not go together with what is there.
    #[error("conflict: {code}")]
    Conflict {
        /// With what, as a stable word.
        code: &'static str,
        /// With what, as a sentence.
        detail: Cow<'static, str>,
    },
    /// The operator has not set up what this needs.
    #[error("not configured: {code}")]
    NotConfigured {
        /// What, as a stable word.
        code: &'static str,
        /// What, as a sentence.
        detail: &'static str,
    },
    /// The caller may see the thing, and not do this to it.
    #[error("forbidden: {code}")]
    Forbidden {
        /// Why, as a stable word.
        code: &'static str,
        /// Why, as a sentence.
        detail: Cow<'static, str>,
    },
    /// It does not exist, or the caller may not know that it does.
    #[error("not found: {code}")]
    NotFound {
        /// What is missing, as a stable word.
        code: &'static str,
        /// What is missing, as a sentence.
        detail: Cow<'static, str>,
    },
    /// It was there, and is not kept any more.
    #[error("gone: {code}")]
    Gone {
        /// What, as a stable word.
        code: &'static str,
        /// What to do, as a sentence.
        detail: &'static str,
    },
    /// Fields that cannot be accepted.
    #[error("invalid: {0:?}")]
    Invalid(Vec<FieldError>),
    /// The idempotency key came with another request before.
    #[error("idempotency key reused")]
    IdempotencyKeyReused,
    /// A limit of the server is reached for now: ask again after `retry_after_s` seconds.
    #[error("unavailable: {source}")]
    Unavailable {
        /// Seconds until another try makes sense.
        retry_after_s: u32,
        /// For the log.
        source: Source,
    },
    /// The disk or the database's quota is full.
    #[error("storage full")]
    StorageFull,
    /// A row with this key is there already. The store says it, the domain translates it.
    #[error("duplicate: {constraint}")]
    Duplicate {
        /// The constraint's name, or the columns where the database names no constraint.
        constraint: String,
    },
    /// The transaction lost against another one and is to be run again. The store says it and answers it itself.
    #[error("transaction must be run again: {0}")]
    Rerun(Source),
    /// A stored message cannot be read, or does not match its digest. Its text is never shown.
    #[error("message {seq} of conversation {conversation_id} is damaged: {source}")]
    Damaged {
        /// The conversation, as the row has it.
        conversation_id: i64,
        /// The message's seq, as the row has it.
        seq: i64,
        /// For the log.
        source: Source,
    },
    /// A column holds a value that this version does not know: the row was damaged, or written by something else. Readers
    /// get no guess in its place.
    #[error("{column} holds {value}{row}, which this version does not know")]
    UnknownValue {
        /// The table and the column, for the log.
        column: &'static str,
        /// What the column holds, for the log.
        value: String,
        /// How the row is found, for the log. Empty until [`Error::in_row`].
        row: String,
    },
    /// A fault of ours.
    #[error("internal: {0}")]
    Internal(Source),
}

impl Error {
    /// One invalid field.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid(vec![FieldError::new(field, code, detail)])
    }

    /// A fault of ours, with a reason for the log.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::Internal(source.into())
    }

    /// A column of words that holds an unknown one. A long word is cut: a damaged row can hold any text.
    pub fn unknown_word(column: &'static str, word: &str) -> Self {
        let shown: String = word.chars().take(SHOWN_WORD_CHARACTERS).collect();
        Self::unknown_value(column, format!("the word {shown:?}"))
    }

    /// A column that holds an unknown value, described in words that may be logged.
    pub fn unknown_value(column: &'static str, value: impl Into<String>) -> Self {
        Self::UnknownValue { column, value: value.into(), row: String::new() }
    }

    /// With the row in which an unknown value was found, unless it is known already. Other errors stay as they are.
    #[must_use]
    pub fn in_row(self, describe: impl FnOnce() -> String) -> Self {
        match self {
            Self::UnknownValue { column, value, row } if row.is_empty() => {
                Self::UnknownValue { column, value, row: format!(" in the row with {}", describe()) }
            }
            other => other,
        }
    }

    /// Something that should work again soon, with a reason for the log.
    pub fn unavailable(source: impl Into<Source>) -> Self {
        Self::Unavailable { retry_after_s: 1, source: source.into() }
    }
}
