//! The JSON form of attachments.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::files::attachments::Description;

/// A file that was uploaded.
#[derive(Serialize, ToSchema)]
#[schema(as = Attachment)]
pub struct AttachmentBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    /// The path of the file.
    #[schema(example = "/api/attachments/1")]
    url: String,
    /// The path of a smaller picture, at most 360 pixels wide and high. Null unless the file is JPEG, PNG, GIF or WebP.
    #[schema(example = "/api/attachments/1/thumbnail")]
    thumbnail_url: Option<String>,
    /// The media type, found by reading the file.
    #[schema(example = "image/png")]
    content_type: &'a str,
    /// The name that the uploader gave. Null without one.
    #[schema(example = "picture.png", max_length = 255)]
    file_name: Option<&'a str>,
    /// The size of the stored file, without the metadata that was removed.
    #[schema(minimum = 0, example = 68)]
    size_bytes: i64,
    /// Width in pixels, of images and videos.
    #[schema(minimum = 1)]
    width: Option<i64>,
    /// Height in pixels, of images and videos.
    #[schema(minimum = 1)]
    height: Option<i64>,
    /// A blurred preview of an image, see <https://blurha.sh>.
    blurhash: Option<&'a str>,
    /// Duration of audio and video. Null if it is not known.
    #[schema(minimum = 0)]
    duration_ms: Option<i64>,
    /// The loudness of 64 equal parts of an audio file.
    #[schema(min_items = 64, max_items = 64)]
    waveform: Option<Vec<u8>>,
    /// False if `duration_ms` or `waveform` was stated by the uploader instead of measured by the server.
    measured: bool,
}

impl<'a> AttachmentBody<'a> {
    /// The JSON form of an attachment.
    pub fn new(attachment: &'a Description) -> Self {
        let url = format!("/api/attachments/{}", attachment.id);
        Self {
            id: attachment.id,
            thumbnail_url: attachment.has_thumbnail.then(|| format!("{url}/thumbnail")),
            url,
            content_type: &attachment.content_type,
            file_name: attachment.file_name.as_deref(),
            size_bytes: attachment.size_bytes,
            width: attachment.width,
            height: attachment.height,
            blurhash: attachment.blurhash.as_deref(),
            duration_ms: attachment.duration_ms,
            waveform: attachment.waveform.clone(),
            measured: attachment.measured,
        }
    }
}
