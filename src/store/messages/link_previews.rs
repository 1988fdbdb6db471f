//! The column `link_preview` of `messaging.messages`.
//!
//! Invariants: the image of a preview is an attachment that the message holds, like those that its sender attached. A preview is
//! written and removed under the lock of the conversation, together with the digest of the message.

use serde::{Deserialize, Serialize};

use super::messages::Message;
use crate::base::error::{Error, Result};
use crate::base::ids::AttachmentId;
use crate::store::db::columns::Columns;
use crate::store::db::{Conn, Row};
use crate::store::driver::values::Value;
use crate::store::files::attachments::{self, Description, Held};

/// The text in the column of a message whose sender wanted no preview.
const DECLINED: &str = "declined";

/// The preview of a link: what its page says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The URL as it is in the text of the message.
    pub url: String,
    /// The title of the page. `None` if the link leads to an image without a name.
    pub title: Option<String>,
    /// The description of the page.
    pub description: Option<String>,
    /// The image of the page.
    pub image: Option<Description>,
}

/// What a message says about the preview of its first link, and the text that the row of the message holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkPreview {
    stored: Option<Box<str>>,
    preview: Option<Box<Preview>>,
}

impl LinkPreview {
    /// A preview.
    ///
    /// # Errors
    /// It cannot be written as JSON, which would be a bug.
    pub fn new(preview: Preview) -> Result<Self> {
        let stored = serde_json::to_string(&preview).map_err(Error::internal)?;
        Ok(Self { stored: Some(stored.into()), preview: Some(Box::new(preview)) })
    }

    /// The value of a new message: no preview yet or, if the sender wants none, no preview at any time.
    pub fn of_new(is_declined: bool) -> Self {
        Self { stored: is_declined.then(|| DECLINED.into()), preview: None }
    }

    /// The preview.
    pub fn preview(&self) -> Option<&Preview> {
        self.preview.as_deref()
    }

    /// Whether the sender wanted no preview.
    pub fn is_declined(&self) -> bool {
        self.preview.is_none() && self.stored.is_some()
    }

    /// The text in the database. `None` if there is neither a preview nor a wish to have none.
    pub fn stored(&self) -> Option<&str> {
        self.stored.as_deref()
    }
}

impl Columns<'_> for LinkPreview {
    fn read_from(row: &Row<'_>, next: &mut usize) -> Result<Self> {
        let Some(stored) = <Option<String> as Columns<'_>>::read_from(row, next)? else { return Ok(Self::default()) };
        if stored == DECLINED {
            return Ok(Self::of_new(true));
        }
        let preview = serde_json::from_str(&stored).map_err(Error::internal)?;
        Ok(Self { stored: Some(stored.into()), preview: Some(Box::new(preview)) })
    }
}

/// Sets the preview of a message that has none. `message` is its current state. The image must be an attachment that was inserted in
/// this transaction.
pub async fn set(conn: &mut Conn, message: Message, preview: Preview) -> Result<()> {
    if let Some(image) = &preview.image {
        let Message { conversation_id: conversation, seq, .. } = message;
        attachments::hold(conn, &[Held { conversation, seq, attachment: AttachmentId(image.id) }]).await?;
    }
    let message = Message { link_preview: LinkPreview::new(preview)?, ..message };
    conn.execute(
        "UPDATE messaging.messages SET link_preview = $3, digest = $4 WHERE conversation_id = $1 AND seq = $2",
        &[
            Value::I64(message.conversation_id.0),
            Value::I64(message.seq),
            Value::OptionText(message.link_preview.stored()),
            Value::I64(message.digest()),
        ],
    )
    .await
    .map(drop)
}

/// Removes the preview from `message`, and the image of the preview from the database. The caller writes the row of the message.
pub(super) async fn take(conn: &mut Conn, message: &mut Message) -> Result<()> {
    let Some(preview) = message.link_preview.preview() else { return Ok(()) };
    if let Some(image) = &preview.image {
        let held = Held { conversation: message.conversation_id, seq: message.seq, attachment: AttachmentId(image.id) };
        attachments::let_go(conn, held).await?;
    }
    message.link_preview = LinkPreview::default();
    Ok(())
}
