//! `/api/capabilities`: the features and limits of this server, for clients before the log-in.

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::access::principal::Access;
use crate::domain::files::gif_provider::Service;
use crate::domain::files::{avatars, custom_emoji, resumable_uploads};
use crate::domain::identity::password_hashing::{MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS};
use crate::domain::sending::drafts;
use crate::domain::shared::pagination;
use crate::http::access::policy::Public;
use crate::http::bodies::answers::resource;
use crate::http::bodies::extract::{BODY_LIMIT_BYTES, Query};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The features and limits of this server.
#[derive(Serialize, ToSchema)]
pub struct Capabilities {
    #[schema(example = "posthaste")]
    server: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
    access: AccessMode,
    /// Whether the server runs with the users of the demo, from which a client can choose.
    demo: bool,
    registration: Registration,
    /// Whether the server sends mail, such as codes for password resets.
    mail: bool,
    /// Whether the server stores files.
    files: bool,
    custom_emoji: EmojiEditors,
    /// Where GIFs are searched. Null if `/api/gifs/search` is not configured.
    gif_search: Option<GifSearch>,
    /// Whether messages get previews of their links.
    link_previews: bool,
    limits: Limits,
}

/// Whether requests need credentials.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessMode {
    /// Requests need credentials.
    Secured,
    /// Open access: every request is allowed.
    Open,
}

/// Whether people may create their own accounts.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Everybody may create an account.
    Open,
    /// Only administrators and API keys create accounts.
    Closed,
}

/// Who may add custom emoji.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmojiEditors {
    /// Administrators, and API keys with the scope `admin`.
    Admins,
    /// Every user.
    Everyone,
}

/// Where GIFs are searched.
#[derive(Serialize, ToSchema)]
pub struct GifSearch {
    /// `local`, `klipy` or `giphy`.
    #[schema(example = "local")]
    provider: &'static str,
    /// The text that a client must show beside the GIFs of a service. Null for GIFs of this server.
    attribution: Option<&'static str>,
}

/// Limits that clients should know.
#[derive(Serialize, ToSchema)]
pub struct Limits {
    #[schema(example = 8000)]
    message_body_characters: usize,
    #[schema(example = 200)]
    page_entries: usize,
    #[schema(example = 262144)]
    json_body_bytes: usize,
    #[schema(example = 8)]
    password_characters_min: usize,
    #[schema(example = 256)]
    password_characters_max: usize,
    #[schema(example = 10)]
    message_attachments: usize,
    /// Bytes of one uploaded file. 0 if the server stores no files.
    #[schema(example = 134_217_728)]
    file_bytes: u64,
    /// Bytes of all files of one user. 0 if the server stores no files.
    #[schema(example = 10_737_418_240_i64)]
    user_files_bytes: i64,
    #[schema(example = 8_388_608)]
    avatar_bytes: u64,
    #[schema(example = 262_144)]
    emoji_bytes: u64,
    /// Resumable uploads of one user that are open at the same time.
    #[schema(example = 10)]
    open_uploads: i64,
}

/// Get the features and limits of the server
///
/// Needs no credentials.
#[utoipa::path(
    get,
    path = "/api/capabilities",
    tag = "server",
    responses(
        (status = 200, description = "The features and limits.", body = Capabilities, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 304, description = "Not modified: the answer still has the entity tag in `If-None-Match`."),
    ),
)]
pub async fn get_capabilities(
    State(state): State<HttpState>,
    _caller: Public,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let settings = &state.app.settings;
    let files = state.app.files.as_ref().map(|files| &files.settings);
    let mut response = resource(&Capabilities {
        server: "posthaste",
        version: env!("CARGO_PKG_VERSION"),
        access: match settings.access {
            Access::Secured => AccessMode::Secured,
            Access::Open => AccessMode::Open,
        },
        demo: settings.demo,
        registration: if settings.registration_open { Registration::Open } else { Registration::Closed },
        mail: state.app.mailer.is_some(),
        files: files.is_some(),
        custom_emoji: if settings.members_add_emoji { EmojiEditors::Everyone } else { EmojiEditors::Admins },
        gif_search: state.app.gifs.as_ref().map(|gifs| GifSearch {
            provider: gifs.service().map_or("local", Service::as_str),
            attribution: gifs.service().map(Service::attribution),
        }),
        link_previews: settings.link_previews.is_some(),
        limits: Limits {
            message_body_characters: drafts::MAX_BODY_CHARACTERS,
            page_entries: pagination::MAX_LIMIT,
            json_body_bytes: BODY_LIMIT_BYTES,
            password_characters_min: MIN_PASSWORD_CHARACTERS,
            password_characters_max: MAX_PASSWORD_CHARACTERS,
            message_attachments: drafts::MAX_ATTACHMENTS,
            file_bytes: files.map_or(0, |files| files.max_file_bytes),
            user_files_bytes: files.map_or(0, |files| files.max_user_bytes),
            avatar_bytes: avatars::MAX_AVATAR_BYTES,
            emoji_bytes: custom_emoji::MAX_PICTURE_BYTES,
            open_uploads: resumable_uploads::MAX_OPEN,
        },
    })?;
    // The answer is the same for all callers, so a cache may store it and must revalidate it.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}
