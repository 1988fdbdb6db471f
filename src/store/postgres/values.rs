//! Converts values to and from PostgreSQL's binary format.

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::base::error::{Error, Result};
use crate::base::time::Timestamp;
use crate::store::driver::values::Value;

/// A row of PostgreSQL.
pub type DriverRow = tokio_postgres::Row;

/// Microseconds from 1970-01-01 to 2000-01-01, the start of PostgreSQL's timestamps.
const EPOCH_OFFSET_MICROS: i64 = 946_684_800_000_000;

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::I64(number) => number.to_sql_checked(kind, out),
            Self::OptionI64(number) => number.to_sql_checked(kind, out),
            Self::Text(text) => text.to_sql_checked(kind, out),
            Self::OptionText(text) => text.to_sql_checked(kind, out),
            Self::Bytes(bytes) => bytes.to_sql_checked(kind, out),
            Self::OptionBytes(bytes) => bytes.to_sql_checked(kind, out),
            Self::OptionByteSlices(slices) => slices.to_sql_checked(kind, out),
            Self::Bool(truth) => truth.to_sql_checked(kind, out),
            Self::Time(at) => at.to_sql_checked(kind, out),
            Self::OptionTime(at) => at.to_sql_checked(kind, out),
            Self::I64s(numbers) => numbers.to_sql_checked(kind, out),
            Self::OptionI64s(numbers) => numbers.to_sql_checked(kind, out),
            Self::Texts(texts) => texts.to_sql_checked(kind, out),
            Self::OptionTexts(texts) => texts.to_sql_checked(kind, out),
            Self::ByteSlices(slices) => slices.to_sql_checked(kind, out),
            Self::Times(times) => times.to_sql_checked(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // The type is checked by each variant's own to_sql_checked.
        true
    }

    to_sql_checked!();
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_i64(self.micros() - EPOCH_OFFSET_MICROS);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // 'infinity' is i64::MAX in PostgreSQL. It becomes the last moment that can be represented.
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self::from_micros(micros.saturating_add(EPOCH_OFFSET_MICROS)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

fn get<'a, T: FromSql<'a>>(row: &'a DriverRow, index: usize) -> Result<T> {
    row.try_get(index).map_err(Error::internal)
}

macro_rules! getters {
    ($($name:ident -> $type:ty;)*) => {
        $(pub(in crate::store) fn $name(row: &DriverRow, index: usize) -> Result<$type> {
            get(row, index)
        })*
    };
}

getters! {
    i64 -> i64;
    option_i64 -> Option<i64>;
    text -> &str;
    option_text -> Option<&str>;
    bytes -> &[u8];
    option_bytes -> Option<&[u8]>;
    bool -> bool;
    time -> Timestamp;
    option_time -> Option<Timestamp>;
}
