//! Making the previews of links.
//!
//! Invariants:
//! - A preview is written only if the message still exists, still has no preview and may have one, and if its first link is still the
//!   one that was fetched. This is checked under the lock of the conversation.
//! - The preview, its image and the event are written in one transaction.
//! - The image belongs to the sender of the message, like a file that the sender attached. If it cannot be stored, the preview has no
//!   image.

use std::sync::Arc;

use super::fetching;
use super::queue::{Job, LinkPreviews, Page, Request};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::links::previewed_url;
use crate::base::tasks;
use crate::base::time::Timestamp;
use crate::domain::files::uploads;
use crate::outbound::Fetcher;
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::messages::link_previews::Preview;

/// The name of the task.
pub const TASK: &str = "link-previews";

/// Makes previews, as long as the server runs.
pub async fn run(app: Arc<App>) {
    let Some(previews) = &app.link_previews else { return std::future::pending().await };
    let fetcher = match Fetcher::new(previews.reach, fetching::TIMEOUT) {
        Ok(fetcher) => fetcher,
        // On a machine without CA certificates everything else still works.
        Err(error) => {
            tracing::error!(%error, "no link previews are made");
            return std::future::pending().await;
        }
    };
    loop {
        let job = previews.next().await;
        let (app, previews, fetcher) = (Arc::clone(&app), Arc::clone(previews), fetcher.clone());
        tasks::spawn("link-preview", async move {
            let outcome = make(&app, &previews, &fetcher, &job).await;
            app.metrics.link_previews(outcome).inc();
        });
    }
}

/// Makes the preview of one message. Returns the outcome for the metrics.
async fn make(app: &App, previews: &LinkPreviews, fetcher: &Fetcher, job: &Job) -> &'static str {
    let request = &job.request;
    loop {
        let known = previews.known(&request.url);
        let was_known = known.is_some();
        let page = match known {
            Some(known) => known,
            None if !previews.may_fetch(request.sender) => return "limited",
            None => match fetching::fetch(app, fetcher, &request.url).await {
                Ok(page) => {
                    let page = page.map(Arc::new);
                    previews.remember(&request.url, page.clone());
                    page
                }
                Err(error) => {
                    // The URL is not logged, because it can contain a secret.
                    tracing::debug!(%error, "the page of a link preview could not be fetched");
                    previews.remember(&request.url, None);
                    return "failed";
                }
            },
        };
        let Some(page) = page else { return "none" };
        match write(app, request, page).await {
            Ok(true) => return "made",
            Ok(false) => return "none",
            // The bytes of an image are deleted with the last message that shows it. Then the page is fetched again.
            Err(Error::Unavailable { .. }) if was_known => previews.forget(&request.url),
            Err(error) => {
                tracing::warn!(%error, "a link preview could not be stored");
                return "failed";
            }
        }
    }
}

struct Input {
    request: Request,
    page: Arc<Page>,
    has_image: bool,
    now: Timestamp,
}

/// Writes a preview. Returns whether the message still needed it.
async fn write(app: &App, request: &Request, page: Arc<Page>) -> Result<bool> {
    let now = app.clock.now();
    let has_image = page.image.is_some();
    let input = |has_image| Input { request: request.clone(), page: Arc::clone(&page), has_image, now };
    let written = app.db.write(input(has_image), |conn, input| Box::pin(write_in_transaction(conn, input))).await;
    match written {
        // The files of the sender or of the server take all the space that they may.
        Err(Error::TooLarge { .. } | Error::StorageFull) if has_image => {
            app.db.write(input(false), |conn, input| Box::pin(write_in_transaction(conn, input))).await
        }
        written => written,
    }
}

async fn write_in_transaction(conn: &mut Conn, input: &Input) -> Result<bool> {
    let Input { request, page, has_image, now } = input;
    let Request { conversation, seq, sender, url } = request;
    // Users are locked before conversations. The sender of an old message may have been erased.
    if store::identity::users::lock_shared(conn, &[sender.0]).await?.is_empty() {
        return Ok(false);
    }
    store::conversations::conversations::lock_one(conn, *conversation).await?;
    let present = store::messages::edits::present_message(conn, *conversation, *seq).await?;
    let Some(present) = present.filter(|present| !present.deleted) else { return Ok(false) };
    let message = present.message?;
    if message.link_preview.stored().is_some() || previewed_url(&message.body) != Some(url.as_str()) {
        return Ok(false);
    }
    let image = match &page.image {
        Some(image) if *has_image => Some(uploads::insert_image(conn, image, *sender, *now).await?),
        _ => None,
    };
    let (title, description) = (page.title.clone(), page.description.clone());
    let preview = Preview { url: url.clone(), title, description, image };
    store::messages::link_previews::set(conn, message, preview).await?;
    store::conversations::conversations::mark_changed(conn, *conversation).await?;
    let event = NewEvent::of_conversation(events::Kind::MessageUpdated, *conversation, *sender, *now);
    events::append(conn, &[event.message(*seq)]).await?;
    Ok(true)
}
