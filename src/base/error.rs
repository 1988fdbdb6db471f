//! The error type of all layers.
//!
//! Invariant: callers see only codes, details, the invalid fields and waiting times. All other parts of an error (sources,
//! constraints, columns, values, rows) are for the log.

use std::borrow::Cow;
use std::fmt;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause that is written to the log only.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// If a column contains an unknown word, the error shows at most this many characters of the word.
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
    /// A log-in failed, or needs a second factor.
    #[error("log-in failed: {code}")]
    LogInFailed {
        /// A stable identifier of the reason, such as `invalid_credentials`.
        code: &'static str,
        /// A sentence that says what is wrong or what to do.
        detail: &'static str,
    },
    /// Too many attempts.
    #[error("rate limited: {code}")]
    RateLimited {
        /// A stable identifier of the limit, such as `too_many_attempts`.
        code: &'static str,
        /// Seconds until the next attempt is allowed.
        retry_after_s: u32,
    },
    /// The request conflicts with the stored state.
    #[error("conflict: {code}")]
    Conflict {
        /// A stable identifier of the conflict, such as `user_name_taken`.
        code: &'static str,
        /// A sentence that describes the conflict.
        detail: Cow<'static, str>,
    },
    /// The operation needs an option that the operator has not set.
    #[error("not configured: {code}")]
    NotConfigured {
        /// A stable identifier of what is not configured, such as `mail_not_configured`.
        code: &'static str,
        /// A sentence that names the missing option.
        detail: &'static str,
    },
    /// The caller may see the object but may not do this to it.
    #[error("forbidden: {code}")]
    Forbidden {
        /// A stable identifier of the reason, such as `insufficient_role`.
        code: &'static str,
        /// A sentence that gives the reason.
        detail: Cow<'static, str>,
    },
    /// The object does not exist, or the caller may not know that it exists.
    #[error("not found: {code}")]
    NotFound {
        /// A stable identifier of what is missing, such as `conversation_not_found`.
        code: &'static str,
        /// A sentence that says what is missing.
        detail: Cow<'static, str>,
    },
    /// The object existed and is no longer stored.
    #[error("gone: {code}")]
    Gone {
        /// A stable identifier of what is gone, such as `cursor_expired`.
        code: &'static str,
        /// A sentence that gives the reason and says what to do.
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
    /// Another service on which the request depends does not answer.
    #[error("{code}: {source}")]
    Upstream {
        /// A stable identifier of the service, such as `gif_provider_unavailable`.
        code: &'static str,
        /// A sentence for the caller.
        detail: &'static str,
        /// Seconds after which the caller should try again.
        retry_after_s: u32,
        /// The cause, for the log.
        source: Source,
    },
    /// The disk is full, or the quota of the database is used up.
    #[error("storage full")]
    StorageFull,
    /// The object has another version than the caller expects.
    #[error("precondition failed")]
    PreconditionFailed,
    /// A row with this key already exists. The store returns this error, and the domain replaces it with one for the
    /// caller.
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
    /// A column contains a value that this version does not know: the row is damaged, or another program wrote it. Code
    /// that reads the column returns this error. It never guesses a value.
    #[error("{column} contains {value}{row}, which this version does not know")]
    UnknownValue {
        /// The table and the column, for the log.
        column: &'static str,
        /// A description of the value, for the log.
        value: String,
        /// A description of the row, for the log. Empty until [`Error::in_row`] sets it.
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
