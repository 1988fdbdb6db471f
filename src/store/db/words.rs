//! Reads enums that are stored as words in columns.
//!
//! Invariant: for [`parse`] an unknown word is an error. It never becomes a default. A default would be a guess, and a
//! wrong guess could show more than the row allows.

use crate::base::error::{Error, Result};

/// Finds the value that is stored as `word`. `column` names the column for the log.
///
/// # Errors
/// [`Error::UnknownValue`].
pub(in crate::store) fn parse<T: Copy>(
    column: &'static str,
    values: &[T],
    as_str: impl Fn(T) -> &'static str,
    word: &str,
) -> Result<T> {
    values.iter().copied().find(|value| as_str(*value) == word).ok_or_else(|| Error::unknown_word(column, word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conversations::members;
    use crate::store::identity::users;
    use crate::store::messages::{messages, receipts};
    use crate::store::people::{friends, reports};

    /// Asserts that each word is read as the value that it was written from, and that other texts are refused.
    fn assert_words<T: Copy + PartialEq + std::fmt::Debug>(
        values: &[T],
        as_str: fn(T) -> &'static str,
        parse: fn(&str) -> Result<T>,
    ) {
        for value in values {
            assert_eq!(parse(as_str(*value)).unwrap(), *value);
        }
        let first = as_str(values[0]);
        for wrong in ["", "unknown", &first.to_uppercase(), &format!("{first} "), &first[1..]] {
            let refused = parse(wrong);
            assert!(matches!(refused, Err(Error::UnknownValue { .. })), "{wrong:?} is {refused:?}");
        }
    }

    #[test]
    fn an_unknown_word_is_an_error() {
        use crate::store::conversations::conversation_kinds::{History, Kind};
        use users::DirectMessagesFrom;
        assert_words(&[Kind::Direct, Kind::Group], Kind::as_str, Kind::parse);
        assert_words(&[History::All, History::SinceJoined], History::as_str, History::parse);
        let member = [members::Role::Member, members::Role::Admin, members::Role::Owner];
        assert_words(&member, members::Role::as_str, members::Role::parse);
        assert_words(&[users::Role::User, users::Role::Admin], users::Role::as_str, users::Role::parse);
        let from = [DirectMessagesFrom::Everyone, DirectMessagesFrom::Friends];
        assert_words(&from, DirectMessagesFrom::as_str, DirectMessagesFrom::parse);
        assert_words(&[messages::Kind::Text, messages::Kind::System], messages::Kind::as_str, messages::Kind::parse);
        let action = [messages::Action::GroupCreated, messages::Action::RoleChanged];
        assert_words(&action, messages::Action::as_str, messages::Action::parse);
        assert_words(&[receipts::Kind::Delivered, receipts::Kind::Read], receipts::Kind::as_str, receipts::Kind::parse);
        let state = [reports::State::Open, reports::State::Resolved, reports::State::Dismissed];
        assert_words(&state, reports::State::as_str, reports::State::parse);
        let rating = crate::store::files::gifs::Rating::ALL;
        assert_words(&rating, crate::store::files::gifs::Rating::as_str, crate::store::files::gifs::Rating::parse);
        let friendship = [friends::State::Asked, friends::State::Friends];
        assert_words(&friendship, friends::State::as_str, friends::State::parse);
    }
}
