//! The JSON form of emoji.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::files::custom_emoji::CustomEmoji;
use crate::domain::files::emoji_list::ListedEmoji;

/// An emoji of the Unicode set, or a custom emoji.
#[derive(Serialize, ToSchema)]
#[schema(as = Emoji)]
pub struct EmojiBody<'a> {
    /// The id of a custom emoji. Null for an emoji of the Unicode set.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: Option<i64>,
    /// The shortcode, without colons.
    #[schema(example = "tada", max_length = 64)]
    name: &'a str,
    /// The group of the Unicode standard, or `custom`.
    #[schema(example = "activities")]
    group: &'static str,
    /// The emoji itself. Absent for a custom emoji.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "🎉", nullable = false)]
    character: Option<&'a str>,
    /// The path of the picture of a custom emoji. Absent for an emoji of the Unicode set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/api/emoji/custom/1", nullable = false)]
    url: Option<String>,
    /// Words by which a search finds the emoji, besides `name`. In lower case.
    #[schema(example = json!(["party", "popper"]))]
    keywords: Vec<String>,
}

impl<'a> EmojiBody<'a> {
    /// The JSON form of an emoji of the list.
    pub fn new(emoji: &'a ListedEmoji) -> Self {
        let keywords = emoji.keywords();
        match emoji {
            ListedEmoji::Unicode(unicode) => Self {
                id: None,
                name: unicode.name(),
                group: unicode.group,
                character: Some(unicode.character),
                url: None,
                keywords,
            },
            ListedEmoji::Custom(custom) => Self {
                id: Some(custom.id.0),
                name: &custom.name,
                group: "custom",
                character: None,
                url: Some(url(custom.id.0)),
                keywords,
            },
        }
    }
}

/// The path of the picture of a custom emoji.
pub fn url(id: i64) -> String {
    format!("/api/emoji/custom/{id}")
}

/// The answer to a change of a custom emoji, as the list shows it.
pub fn listed(emoji: CustomEmoji) -> ListedEmoji {
    ListedEmoji::Custom(Box::new(emoji))
}
