//! The error type of all layers.
//!
//! Invariant: the parts that a caller may read (`code`, `detail`) are separate from the parts that only the log may contain
//! (the source of [`Error::Internal`] and [`Error::Unavailable`]).

use std::borrow::Cow;
use std::fmt;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause that is written to the log only.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Maximum number of characters of a stored word that an error shows.
const SHOWN_WORD_CHARACTERS: usize = 40;

/// The reason why one field is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The name of the field as the caller wrote it. Nested fields are separated by dots.
    pub field: Cow<'static, str>,
    /// A stable identifier of the reason, in snake_case.
    pub code: &'static str,
    /// Either a phrase that reads well after the name of the field ("must have 1 to 100 characters"), or a sentence that
    /// stands alone and begins with a capital letter ("This password is too common").
    pub detail: Cow<'static, str>,
}

impl FieldError {
    /// Creates the error of one field.
    pub fn new(field: impl Into<Cow<'static, str>>, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), code, detail: detail.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.starts_with(|first: char| first.is_ascii_uppercase()) {
            formatter.write_str(&self.detail)
        } else {
            write!(formatter, "{}: {}", self.field, self.detail)
        }
    }
}

/// An error. Each variant that a caller can see has a stable `code`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The credentials are missing or invalid.
    #[error("unauthenticated")]
    Unauthenticated,
    /// A log-in failed, or needs another factor.
    #[error("log-in failed: {code}")]
    LogInFailed {
        /// The reason, as a stable identifier.
        code: &'static str,
        /// The reason and what to do, as a sentence.
        detail: &'static str,
    },
    /// Too many attempts.
    #[error("rate limited: {code}")]
    RateLimited {
        /// The limit, as a stable identifier.
        code: &'static str,
        /// Seconds until the next attempt is allowed.
        retry_after_s: u32,
    },
    /// The request conflicts with the stored state.
    #[error("conflict: {code}")]
    Conflict {
        /// The conflict, as a stable identifier.
        code: &'static str,
        /// The conflict, as a sentence.
        detail: Cow<'static, str>,
    },
    /// The operation needs an option that the operator has not set.
    #[error("not configured: {code}")]
    NotConfigured {
        /// The missing part, as a stable identifier.
        code: &'static str,
        /// The missing part, as a sentence.
        detail: &'static str,
    },
    /// The caller may see the object but may not do this to it.
    #[error("forbidden: {code}")]
    Forbidden {
        /// The reason, as a stable identifier.
        code: &'static str,
        /// The reason, as a sentence.
        detail: Cow<'static, str>,
    },
    /// The object does not exist, or the caller may not know that it exists.
    #[error("not found: {code}")]
    NotFound {
        /// The missing object, as a stable identifier.
        code: &'static str,
        /// The missing object, as a sentence.
        detail: Cow<'static, str>,
    },
    /// The object existed and is no longer stored.
    #[error("gone: {code}")]
    Gone {
        /// The object, as a stable identifier.
        code: &'static str,
        /// The reason and what to do, as a sentence.
        detail: &'static str,
    },
    /// The request is too large, or needs more space than the caller has.
    #[error("too large: {code}")]
    TooLarge {
        /// The limit, as a stable identifier.
        code: &'static str,
        /// The limit, as a sentence.
        detail: Cow<'static, str>,
    },
    /// The content of the request is well-formed and cannot be used.
    #[error("unusable: {code}")]
    Unusable {
        /// The reason, as a stable identifier.
        code: &'static str,
        /// The reason, as a sentence.
        detail: Cow<'static, str>,
    },
    /// One or more fields are invalid.
    #[error("invalid: {0:?}")]
    Invalid(Vec<FieldError>),
    /// The idempotency key was used before with another request.
    #[error("idempotency key reused")]
    IdempotencyKeyReused,
    /// The server cannot do this now, for example because a queue is full or the database does not answer.
    #[error("unavailable: {source}")]
    Unavailable {
        /// Seconds after which the caller should try again.
        retry_after_s: u32,
        /// The cause, for the log.
        source: Source,
    },
    /// The disk is full, or the quota of the database is used up.
    #[error("storage full")]
    StorageFull,
    /// A row with this key already exists. The store returns this error and the domain translates it.
    #[error("duplicate: {constraint}")]
    Duplicate {
        /// The name of the constraint, or its columns if the database gives no name.
        constraint: String,
    },
    /// The transaction conflicted with another one and must be run again. On PostgreSQL the driver runs it again. On SQLite the
    /// code that sends messages runs it again.
    #[error("transaction must be run again: {0}")]
    Rerun(Source),
    /// A stored message cannot be read, or does not match its digest. Its text is not shown to anybody.
    #[error("message {seq} of conversation {conversation_id} is damaged: {source}")]
    Damaged {
        /// The id of the conversation as stored in the row.
        conversation_id: i64,
        /// The seq of the message as stored in the row.
        seq: i64,
        /// The cause, for the log.
        source: Source,
    },
    /// A column contains a value that this version does not know: the row is damaged, or another program wrote it. Readers
    /// get this error and never a guessed value.
    #[error("{column} contains {value}{row}, which this version does not know")]
    UnknownValue {
        /// The table and the column, for the log.
        column: &'static str,
        /// A description of the value, for the log.
        value: String,
        /// A description of the row, for the log. Empty until [`Error::in_row`].
        row: String,
    },
    /// A fault of the server.
    #[error("internal: {0}")]
    Internal(Source),
}

impl Error {
    /// An error for one invalid field.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid(vec![FieldError::new(field, code, detail)])
    }

    /// A fault of the server, with a cause for the log.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::Internal(source.into())
    }

    /// The error for a column that must contain one of several fixed words and contains another one. A long word is cut, because a
    /// damaged row can contain any text.
    pub fn unknown_word(column: &'static str, word: &str) -> Self {
        let shown: String = word.chars().take(SHOWN_WORD_CHARACTERS).collect();
        Self::unknown_value(column, format!("the word {shown:?}"))
    }

    /// The error for a column that contains an unknown value. `value` describes the value in words that may be logged.
    pub fn unknown_value(column: &'static str, value: impl Into<String>) -> Self {
        Self::UnknownValue { column, value: value.into(), row: String::new() }
    }

    /// Adds the row in which an unknown value was found, if it is not known yet. Other errors stay as they are.
    #[must_use]
    pub fn in_row(self, describe: impl FnOnce() -> String) -> Self {
        match self {
            Self::UnknownValue { column, value, row } if row.is_empty() => {
                Self::UnknownValue { column, value, row: format!(" in the row with {}", describe()) }
            }
            other => other,
        }
    }

    /// A temporary failure, with a cause for the log. The caller is asked to try again after 1 second.
    pub fn unavailable(source: impl Into<Source>) -> Self {
        Self::Unavailable { retry_after_s: 1, source: source.into() }
    }
}
