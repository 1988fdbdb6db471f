//! Reading rows by name: one list of columns produces both the text of a query and the code that reads its rows.
//!
//! Invariant: the text and the reading use the same list in the same order, so they cannot differ. Columns are read by
//! their position, so no name is looked up while a query runs.

use super::Row;
use crate::base::error::{Error, Result};
use crate::base::ids::{
    ApiKeyId, AttachmentId, BlobId, ConversationId, EmojiId, GifId, IncomingWebhookId, InviteId, MessageId, ReportId,
    ScheduledId, SessionId, UploadId, UserId, WebhookId,
};
use crate::base::time::Timestamp;

/// A type that can be read from one column, or from several adjacent columns.
pub(in crate::store) trait Columns<'r>: Sized {
    /// Reads from column `next` on, and sets `next` to the column after the ones it read.
    fn read_from(row: &'r Row<'_>, next: &mut usize) -> Result<Self>;
}

/// Reads a row, beginning with its first column.
///
/// # Errors
/// [`Error::Internal`](crate::base::error::Error::Internal) when a column is absent or has another type.
pub(in crate::store) fn read<T>(row: &Row<'_>) -> Result<T>
where
    T: for<'r> Columns<'r>,
{
    T::read_from(row, &mut 0)
}

/// Reads a `T` that comes from a LEFT JOIN: `None` when the join found no row, which means that the first column of `T`, a
/// BIGINT, is NULL. The columns of `T` must be the last ones of the row, because `None` does not move `next`.
pub(in crate::store) fn read_joined<'r, T: Columns<'r>>(row: &'r Row<'_>, next: &mut usize) -> Result<Option<T>> {
    if row.option_i64(*next)?.is_none() {
        return Ok(None);
    }
    T::read_from(row, next).map(Some)
}

/// Concatenates texts at compile time: literals, and the `COLUMNS` of types. The result is a `'static` text. The drivers
/// need one, because they identify a statement by its text.
macro_rules! sql {
    ($($part:expr),+ $(,)?) => {{
        const PARTS: &[&str] = &[$($part),+];
        const BYTES: [u8; $crate::store::db::columns::length(PARTS)] = $crate::store::db::columns::joined(PARTS);
        const TEXT: &str = match std::str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("texts put together are a text"),
        };
        TEXT
    }};
}

/// Declares the columns of a type once: each field with its SQL expression.
///
/// `columns! { Session { id: "s.id", agent: "s.agent" } }` defines `Session::COLUMNS`, which is `s.id, s.agent`, for use in
/// `sql!("SELECT ", Session::COLUMNS, " FROM messaging.sessions s")`, and lets [`read`] read a `Session`. If the type of a
/// field has columns itself, these replace the SQL expression: `head: Head::COLUMNS`. A field of type `Option<Session>` is
/// `None` when a LEFT JOIN found no row ([`read_joined`]).
///
/// When a field is computed from several columns, an expression for the whole value follows the list. In it, each column is
/// a variable: `{ day: "k.day", digest: "k.digest" } => Session { key: key(day, digest) }`.
macro_rules! columns {
    ($type:ident { $($field:ident: $sql:expr),+ $(,)? }) => {
        $crate::store::db::columns::columns!($type { $($field: $sql),+ } => $type { $($field),+ });
    };
    ($type:ident { $first:ident: $first_sql:expr $(, $field:ident: $sql:expr)* $(,)? } => $made:expr) => {
        impl $type {
            /// The columns in the order in which they are read.
            pub(crate) const COLUMNS: &'static str = $crate::store::db::columns::sql!($first_sql $(, ", ", $sql)*);
        }

        impl<'r> $crate::store::db::columns::Columns<'r> for $type {
            #[inline]
            fn read_from(row: &'r $crate::store::db::Row<'_>, next: &mut usize) -> $crate::base::error::Result<Self> {
                let $first = $crate::store::db::columns::Columns::read_from(row, next)?;
                $(let $field = $crate::store::db::columns::Columns::read_from(row, next)?;)*
                Ok($made)
            }
        }

        impl<'r> $crate::store::db::columns::Columns<'r> for Option<$type> {
            #[inline]
            fn read_from(row: &'r $crate::store::db::Row<'_>, next: &mut usize) -> $crate::base::error::Result<Self> {
                $crate::store::db::columns::read_joined(row, next)
            }
        }
    };
}

/// Makes a type readable from one column, with a getter of [`Row`]. A second getter is for columns that can be NULL; it
/// makes `Option` of the type readable.
macro_rules! column {
    ($type:ty, $get:expr, $get_option:expr) => {
        $crate::store::db::columns::column!($type, $get);
        $crate::store::db::columns::column!(Option<$type>, $get_option);
    };
    ($type:ty, $get:expr) => {
        impl<'r> $crate::store::db::columns::Columns<'r> for $type {
            #[inline]
            fn read_from(row: &'r $crate::store::db::Row<'_>, next: &mut usize) -> $crate::base::error::Result<Self> {
                let column = std::mem::replace(next, *next + 1);
                let get: fn(&'r $crate::store::db::Row<'_>, usize) -> $crate::base::error::Result<Self> = $get;
                get(row, column)
            }
        }
    };
}

/// Makes a type that is stored as a word readable from one column. The type must have a function `parse`.
macro_rules! word_column {
    ($type:ident) => {
        $crate::store::db::columns::column!($type, |row, at| row.text(at).and_then($type::parse), |row, at| {
            row.option_text(at)?.map($type::parse).transpose()
        });
    };
}

pub(in crate::store) use {column, columns, sql, word_column};

/// The sum of the lengths of all texts, in bytes.
pub(in crate::store) const fn length(parts: &[&str]) -> usize {
    let mut length = 0;
    let mut index = 0;
    while index < parts.len() {
        length += parts[index].len();
        index += 1;
    }
    length
}

/// The bytes of all texts, concatenated.
pub(in crate::store) const fn joined<const LENGTH: usize>(parts: &[&str]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut length = 0;
    let mut index = 0;
    while index < parts.len() {
        let part = parts[index].as_bytes();
        bytes.split_at_mut(length).1.split_at_mut(part.len()).0.copy_from_slice(part);
        length += part.len();
        index += 1;
    }
    bytes
}

column!(i64, |row, at| row.i64(at), |row, at| row.option_i64(at));
column!(bool, |row, at| row.bool(at));
column!(&'r str, |row, at| row.text(at), |row, at| row.option_text(at));
column!(String, |row, at| row.text(at).map(str::to_owned), |row, at| Ok(row.option_text(at)?.map(str::to_owned)));
column!(&'r [u8], |row, at| row.bytes(at), |row, at| row.option_bytes(at));
column!(Vec<u8>, |row, at| row.bytes(at).map(<[u8]>::to_vec), |row, at| {
    Ok(row.option_bytes(at)?.map(<[u8]>::to_vec))
});
column!([u8; 32], |row, at| row.bytes(at).and_then(array), |row, at| row.option_bytes(at)?.map(array).transpose());
column!(Timestamp, |row, at| row.time(at), |row, at| row.option_time(at));

fn array<const LENGTH: usize>(bytes: &[u8]) -> Result<[u8; LENGTH]> {
    bytes.try_into().map_err(Error::internal)
}

macro_rules! id_columns {
    ($($id:ident),+ $(,)?) => {
        $(column!($id, |row, at| row.i64(at).map($id), |row, at| Ok(row.option_i64(at)?.map($id)));)+
    };
}

id_columns!(
    ApiKeyId,
    AttachmentId,
    BlobId,
    ConversationId,
    EmojiId,
    GifId,
    IncomingWebhookId,
    InviteId,
    MessageId,
    ReportId,
    ScheduledId,
    SessionId,
    UploadId,
    UserId,
    WebhookId,
);

impl<'r, A: Columns<'r>, B: Columns<'r>> Columns<'r> for (A, B) {
    #[inline]
    fn read_from(row: &'r Row<'_>, next: &mut usize) -> Result<Self> {
        Ok((A::read_from(row, next)?, B::read_from(row, next)?))
    }
}

impl<'r, A: Columns<'r>, B: Columns<'r>, C: Columns<'r>> Columns<'r> for (A, B, C) {
    #[inline]
    fn read_from(row: &'r Row<'_>, next: &mut usize) -> Result<Self> {
        Ok((A::read_from(row, next)?, B::read_from(row, next)?, C::read_from(row, next)?))
    }
}
