//! What statements take and what copies carry: values of the types that both databases have.

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
    /// BIGINT[]; `= ANY($1)` on both databases, anything else on PostgreSQL alone.
    I64s(&'a [i64]),
    /// BIGINT[] with NULLs; PostgreSQL alone.
    OptionI64s(&'a [Option<i64>]),
    /// TEXT[].
    Texts(&'a [&'a str]),
    /// TEXT[] with NULLs; PostgreSQL alone.
    OptionTexts(&'a [Option<&'a str>]),
    /// BYTEA[].
    ByteSlices(&'a [&'a [u8]]),
    /// BYTEA[] with NULLs; PostgreSQL alone.
    OptionByteSlices(&'a [Option<&'a [u8]>]),
    /// TIMESTAMPTZ[]; PostgreSQL alone.
    Times(&'a [Timestamp]),
}

/// A value that was read without knowing its column beforehand: what copies between databases carry.
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
    /// As a parameter.
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
