//! Links: URLs that give one part of an attachment without credentials, for `<img>` elements and media players.
//!
//! Invariants:
//! - A link contains an encrypted and authenticated token (AES-256-GCM). The server stores nothing for it, and only a server with the
//!   secret of this database can read or create a token.
//! - Each use of a link is checked as a request of the user for whom it was made. When that user may not see the attachment any
//!   more, or the link has expired, it looks like a link that was never made.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::attachments::{self, Content, Part};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::store;

/// Shortest lifetime of a link, in seconds.
pub const MIN_LIFETIME_S: i64 = 10;
/// Longest lifetime of a link, in seconds.
pub const MAX_LIFETIME_S: i64 = 3_600;
/// Default lifetime of a link, in seconds.
pub const DEFAULT_LIFETIME_S: i64 = 300;

/// The content of a token: id, part, user and expiry.
const CONTENT_BYTES: usize = 8 + 1 + 8 + 8;

/// The links of one attachment.
#[derive(Clone, Debug)]
pub struct Links {
    /// The token of the file.
    pub file: String,
    /// The token of the thumbnail. `None` if there is no thumbnail.
    pub thumbnail: Option<String>,
    /// When both expire.
    pub expires_at: Timestamp,
}

/// The content of a token. The authentication tag shows that a server with the secret of this database created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    attachment: i64,
    part: Part,
    person: UserId,
    /// When the link expires.
    pub expires_at: Timestamp,
}

/// Makes links of an attachment that the caller may see.
///
/// # Errors
/// 403 `act_as_required`; 404 `attachment_not_found`; 422 for `expires_in_s`.
pub async fn create(app: &App, principal: &Principal, id: i64, expires_in_s: i64) -> Result<Links> {
    let person = principal.require_person()?.id;
    if !(MIN_LIFETIME_S..=MAX_LIFETIME_S).contains(&expires_in_s) {
        let detail = format!("must be between {MIN_LIFETIME_S} and {MAX_LIFETIME_S}");
        return Err(Error::invalid("expires_in_s", "out_of_range", detail));
    }
    let attachment = app
        .db
        .read((person, id), |conn, (person, id)| Box::pin(attachments::visible(conn, Viewer::Person(*person), *id)))
        .await?;
    let expires_at = app.clock.now().plus_micros(expires_in_s * 1_000_000);
    let sealed = |part| seal(app, Link { attachment: id, part, person, expires_at });
    let thumbnail = attachment.thumbnail.is_some().then(|| sealed(Part::Thumbnail)).transpose()?;
    Ok(Links { file: sealed(Part::File)?, thumbnail, expires_at })
}

/// Reads a token.
///
/// # Errors
/// 404 `link_not_found` if it was not made by this server or has expired.
pub fn open(app: &App, token: &str) -> Result<Link> {
    let link = decrypt(app, token)?.ok_or_else(not_found)?;
    if link.expires_at <= app.clock.now() { Err(not_found()) } else { Ok(link) }
}

/// Finds the bytes of a link, if its user may still see them. A running download calls this again. The expiry is not checked here, so
/// a download may continue after the link has expired, but not after the user has lost the permission.
///
/// # Errors
/// 404 `link_not_found`.
pub async fn content(app: &App, link: Link) -> Result<Content> {
    let found = app
        .db
        .read(link, |conn, link| {
            Box::pin(async move {
                let account = store::identity::users::account_by_id(conn, link.person).await?;
                if !account.is_some_and(|account| account.may_call()) {
                    return Err(not_found());
                }
                attachments::visible(conn, Viewer::Person(link.person), link.attachment).await
            })
        })
        .await;
    match found {
        Ok(attachment) => attachments::part_of(attachment, link.part).ok_or_else(not_found),
        Err(Error::NotFound { .. }) => Err(not_found()),
        Err(error) => Err(error),
    }
}

/// The error for a link that was never made, has expired, or whose user may not see the file any more.
fn not_found() -> Error {
    Error::NotFound { code: "link_not_found", detail: "This link does not exist or has expired; make a new one".into() }
}

fn cipher(app: &App) -> Result<LessSafeKey> {
    let key = Sha256::new().chain_update(b"posthaste file links ").chain_update(app.name_key).finalize();
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| Error::internal("the key for links cannot be used"))?;
    Ok(LessSafeKey::new(key))
}

/// Returns the nonce, the encrypted content and its tag, in base64url.
fn seal(app: &App, link: Link) -> Result<String> {
    let nonce: [u8; NONCE_LEN] = app.rng.bytes().map_err(Error::internal)?;
    let mut content = link.to_bytes().to_vec();
    cipher(app)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut content)
        .map_err(|_| Error::internal("a link could not be encrypted"))?;
    Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &content].concat()))
}

/// Decrypts a token. `None` if this server did not make it.
fn decrypt(app: &App, token: &str) -> Result<Option<Link>> {
    let Ok(mut sealed) = URL_SAFE_NO_PAD.decode(token) else { return Ok(None) };
    let Some((nonce, content)) = sealed.split_at_mut_checked(NONCE_LEN) else { return Ok(None) };
    let Ok(nonce) = Nonce::try_assume_unique_for_key(nonce) else { return Ok(None) };
    let opened = cipher(app)?.open_in_place(nonce, Aad::empty(), content);
    Ok(opened.ok().and_then(|content| Link::from_bytes(content)))
}

impl Link {
    fn to_bytes(self) -> [u8; CONTENT_BYTES] {
        let part = match self.part {
            Part::File => 0,
            Part::Thumbnail => 1,
        };
        let mut bytes = [0; CONTENT_BYTES];
        bytes[..8].copy_from_slice(&self.attachment.to_le_bytes());
        bytes[8] = part;
        bytes[9..17].copy_from_slice(&self.person.0.to_le_bytes());
        bytes[17..].copy_from_slice(&self.expires_at.micros().to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (attachment, rest) = bytes.split_first_chunk()?;
        let (part, rest) = rest.split_first()?;
        let (person, rest) = rest.split_first_chunk()?;
        let part = match part {
            0 => Part::File,
            1 => Part::Thumbnail,
            _ => return None,
        };
        Some(Self {
            attachment: i64::from_le_bytes(*attachment),
            part,
            person: UserId(i64::from_le_bytes(*person)),
            expires_at: Timestamp::from_micros(i64::from_le_bytes(rest.try_into().ok()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_everything() {
        let expires_at = Timestamp::parse("2026-11-22T08:30:00Z").unwrap();
        for part in [Part::File, Part::Thumbnail] {
            let link = Link { attachment: 7, part, person: UserId(9), expires_at };
            assert_eq!(Link::from_bytes(&link.to_bytes()), Some(link));
        }
        assert_eq!(Link::from_bytes(&[0; CONTENT_BYTES - 1]), None);
        assert_eq!(Link::from_bytes(&[0; CONTENT_BYTES + 1]), None);
        assert_eq!(Link::from_bytes(&[2; CONTENT_BYTES]), None);
    }
}
