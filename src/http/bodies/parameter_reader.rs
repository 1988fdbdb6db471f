//! A deserializer that reads the parameters of a path or a query into a struct, by the names of its fields.
//!
//! Invariant: every invalid parameter of a query is reported, not only the first one.

use std::borrow::Cow;
use std::cell::RefCell;
use std::iter::repeat_n;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_path_to_error::Segment;

use super::field_errors;
use crate::base::error::{Error, FieldError};
use crate::base::text::choices;

/// Reads the parameters of a path into `T`: a struct, or a tuple of structs.
///
/// # Errors
/// An internal error if `T` has a field that the path does not have.
pub fn read_path<T: DeserializeOwned>(given: &[(&str, &str)]) -> Result<T, Error> {
    let find = |name: &str| given.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let names = RefCell::default();
    T::deserialize(Reader { find: &find, number: |text| Some(number_or_zero(text)), names: &names })
        .map_err(Error::internal)
}

/// Parses an id or a seq in a path. A text that is not such a number becomes 0, which no row has, so the answer is the same as
/// for an unknown id.
pub fn number_or_zero(text: &str) -> i64 {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().unwrap_or(0) } else { 0 }
}

/// Reads the parameters of a query into `T`: a struct, a tuple of structs, or `()` for a route without parameters. `given` has
/// each name once. `errors` are the errors found before.
///
/// # Errors
/// [`Error::Invalid`] with every invalid or unknown parameter.
pub fn read_query<T: DeserializeOwned>(
    mut given: Vec<(String, String)>,
    mut errors: Vec<FieldError>,
) -> Result<T, Error> {
    let names: RefCell<Vec<&'static str>> = RefCell::default();
    let mut wrong: Vec<FieldError> = Vec::new();
    // serde stops at the first error. So an invalid parameter is recorded, and the others are read again without it.
    let value = loop {
        names.borrow_mut().clear();
        let find = |name: &str| {
            let (_, text) = given.iter().find(|(known, _)| known == name)?;
            (!wrong.iter().any(|error| error.field == name)).then_some(text.as_str())
        };
        let reader = Reader { find: &find, number: |text| text.parse().ok(), names: &names };
        let outcome: Result<T, _> = serde_path_to_error::deserialize(reader);
        match outcome {
            Ok(value) => break value,
            Err(error) => {
                let field = error.path().iter().find_map(|segment| match segment {
                    Segment::Map { key } => Some(key.clone()),
                    _ => None,
                });
                let error = error.into_inner();
                let Some(field) = field.filter(|field| find(field).is_some()) else {
                    return Err(Error::internal(error));
                };
                wrong.push(FieldError::new(field, error.code, error.detail));
            }
        }
    };
    errors.append(&mut wrong);
    for name in names.into_inner() {
        if let Some(at) = given.iter().position(|(known, _)| known == name) {
            given.swap_remove(at);
        }
    }
    for (name, _) in given {
        errors.push(FieldError::new(name, "unknown_parameter", "unknown parameter"));
    }
    if errors.is_empty() { Ok(value) } else { Err(Error::Invalid(errors)) }
}

/// The reason why a parameter is invalid.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
struct ParameterError {
    code: &'static str,
    detail: Cow<'static, str>,
}

impl de::Error for ParameterError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self { code: "wrong_type", detail: message.to_string().into() }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // Every parameter is a text, so the sentence does not say what was found.
        let reason = field_errors::wrong_type("", &expected.to_string());
        let (code, detail) = reason.unwrap_or(("wrong_type", "has the wrong type".into()));
        Self { code, detail }
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self { code: "out_of_range", detail: expected.to_string().into() }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self { code: "wrong_value", detail: choices(expected).into() }
    }
}

/// The deserializer. Each struct takes the parameters with the names of its fields.
#[derive(Clone, Copy)]
struct Reader<'a> {
    /// Returns the text of a parameter.
    find: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Parses a number.
    number: fn(&str) -> Option<i64>,
    /// The names of the fields that were read.
    names: &'a RefCell<Vec<&'static str>>,
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ParameterError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ParameterError> {
        Err(de::Error::custom("parameters can only be read into structs"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        self.names.borrow_mut().extend(fields);
        let found = fields.iter().filter_map(|field| {
            let text = (self.find)(field)?;
            Some((*field, Text { text, number: self.number }))
        });
        visitor.visit_map(MapDeserializer::new(found))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_seq(SeqDeserializer::new(repeat_n(self, length)))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit_struct
        newtype_struct seq tuple_struct map enum identifier ignored_any
    }
}

impl IntoDeserializer<'_, ParameterError> for Reader<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The deserializer of one parameter.
struct Text<'a> {
    text: &'a str,
    number: fn(&str) -> Option<i64>,
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = ParameterError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_str(self.text)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        if let Some(number) = (self.number)(self.text) {
            return visitor.visit_i64(number);
        }
        let digits = self.text.strip_prefix(['-', '+']).unwrap_or(self.text);
        let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let reason = field_errors::wrong_type(if is_whole { "integer" } else { "" }, "i64");
        let (code, detail) = reason.unwrap_or(("wrong_type", "must be a whole number".into()));
        Err(ParameterError { code, detail })
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        match self.text {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            text => visitor.visit_str(text),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        visitor.visit_enum(self.text.into_deserializer())
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, ParameterError> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Order {
        #[default]
        Asc,
        Desc,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Filter {
        days: Option<i64>,
        whole: Option<bool>,
        #[serde(default)]
        order: Order,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Position {
        after: Option<i64>,
    }

    fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn the_structs_of_a_tuple_share_the_parameters() {
        let read = |pairs| read_query::<(Filter, Position)>(given(pairs), Vec::new()).unwrap();
        assert_eq!(read(&[]), (Filter { days: None, whole: None, order: Order::Asc }, Position { after: None }));
        let all = read(&[("after", "7"), ("order", "desc"), ("days", "-1"), ("whole", "false")]);
        let filter = Filter { days: Some(-1), whole: Some(false), order: Order::Desc };
        assert_eq!(all, (filter, Position { after: Some(7) }));
    }

    #[test]
    fn all_invalid_parameters_are_reported() {
        let pairs =
            [("x", "1"), ("after", "9223372036854775808"), ("order", "up"), ("days", "1.5"), ("whole", "maybe")];
        let earlier = vec![FieldError::new("z", "duplicate", "must not be given more than once")];
        let Err(Error::Invalid(errors)) = read_query::<(Filter, Position)>(given(&pairs), earlier) else { panic!() };
        let named: Vec<_> = errors.iter().map(|error| (&*error.field, error.code, &*error.detail)).collect();
        let expected = [
            ("z", "duplicate", "must not be given more than once"),
            ("days", "wrong_type", "must be a whole number"),
            ("whole", "wrong_type", "must be true or false"),
            ("order", "wrong_value", "must be asc or desc"),
            ("after", "out_of_range", "must be a whole number between -2^63 and 2^63 - 1"),
            ("x", "unknown_parameter", "unknown parameter"),
        ];
        assert_eq!(named, expected);
        let Err(Error::Invalid(errors)) = read_query::<()>(given(&[("x", "1")]), Vec::new()) else { panic!() };
        assert_eq!(errors.len(), 1);
    }

    #[test]
    fn a_segment_that_is_not_a_number_becomes_zero() {
        #[derive(Deserialize)]
        struct Path {
            id: i64,
            name: String,
        }
        for (text, number) in [("7", 7), ("07", 0), ("+7", 0), ("-7", 0), ("x", 0), ("9223372036854775808", 0)] {
            let path: Path = read_path(&[("id", text), ("name", "07")]).unwrap();
            assert_eq!((path.id, &*path.name), (number, "07"));
        }
        assert!(matches!(read_path::<Path>(&[("id", "7")]), Err(Error::Internal(_))));
    }
}
