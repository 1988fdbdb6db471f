//! Values that statements take as parameters, and values that copies between the databases use. Both databases support a
//! type, unless its variant says otherwise.

use crate::base::time::Timestamp;

/// A parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// BIGINT.
    I64(i64),
    /// BIGINT or NULL.
    OptionI64(Option<i64>),
    /// TEXT.
    Text(&'a str),
    /// TEXT or NULL.
    OptionText(Option<&'a str>),
    /// BYTEA.
    Bytes(&'a [u8]),
    /// BYTEA or NULL.
    OptionBytes(Option<&'a [u8]>),
    /// BOOLEAN.
    Bool(bool),
    /// TIMESTAMPTZ.
    Time(Timestamp),
    /// TIMESTAMPTZ or NULL.
    OptionTime(Option<Timestamp>),
    /// BIGINT[]. SQLite supports it only in `= ANY($1)`.
    I64s(&'a [i64]),
    /// BIGINT[] with NULLs. Only on PostgreSQL.
    OptionI64s(&'a [Option<i64>]),
    /// TEXT[]. SQLite supports it only in `= ANY($1)`.
    Texts(&'a [&'a str]),
    /// TEXT[] with NULLs. Only on PostgreSQL.
    OptionTexts(&'a [Option<&'a str>]),
    /// BYTEA[]. SQLite supports it only in `= ANY($1)`.
    ByteSlices(&'a [&'a [u8]]),
    /// BYTEA[] with NULLs. Only on PostgreSQL.
    OptionByteSlices(&'a [Option<&'a [u8]>]),
    /// TIMESTAMPTZ[]. Only on PostgreSQL.
    Times(&'a [Timestamp]),
}

/// A value of a column, read with the type of the column in the schema. Copies between the databases use it.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    /// BIGINT or NULL.
    I64(Option<i64>),
    /// TEXT or NULL.
    Text(Option<String>),
    /// BYTEA or NULL.
    Bytes(Option<Vec<u8>>),
    /// BOOLEAN.
    Bool(bool),
    /// TIMESTAMPTZ or NULL.
    Time(Option<Timestamp>),
}

impl OwnedValue {
    /// Borrows the value as a parameter of a statement.
    pub fn as_value(&self) -> Value<'_> {
        match self {
            Self::I64(number) => Value::OptionI64(*number),
            Self::Text(text) => Value::OptionText(text.as_deref()),
            Self::Bytes(bytes) => Value::OptionBytes(bytes.as_deref()),
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Time(at) => Value::OptionTime(*at),
        }
    }
}
