//! Tests of previews of links.

mod changes;
mod pages;
mod work;

use std::time::{Duration, Instant};

use posthaste::outbound::addresses::Reach;
use serde_json::{Value, json};

use crate::support::people::{get, patch, path_of, post};
use crate::support::site::{Reply, Site, html};
use crate::support::{Options, Place, Server};

/// The longest wait for something that must happen.
const LIMIT: Duration = Duration::from_secs(30);

/// A server that makes previews, also of private addresses.
pub async fn start(place: &Place) -> Server {
    Server::start_with(place, options()).await
}

fn options() -> Options {
    Options { link_previews: Some(Reach::Anywhere), ..Options::default() }
}

/// Sends messages with a preview, with one that an edit removes, and without one.
pub async fn change_previews(server: &Server) {
    let site = Site::start(|target| html(&format!("<title>{target}</title>"))).await;
    for path in ["kept", "removed"] {
        let sent = send(server, &format!("{}/{path}", site.url)).await;
        preview_of(server, &sent).await;
        let body = if path == "kept" { format!("see {}/kept", site.url) } else { "no link".to_owned() };
        let edited = patch(server, "bugs", &path_of(&sent), json!({"body": body})).await.json();
        assert_eq!(edited["link_preview"].is_object(), path == "kept");
    }
    send_new(server, json!({"recipient_user_name": "duck", "body": site.url, "link_preview": false})).await;
}

/// A site with an image under `/image.png`. All other pages have their path as title, and this image.
async fn site() -> Site {
    Site::start(|target| match target {
        "/image.png" => Reply::Content(200, "image/png", crate::support::files::png(400, 200)),
        target => html(&format!("<title>{target}</title><meta property=og:image content=image.png>")),
    })
    .await
}

/// Sends a direct message of bugs to duck.
async fn send(server: &Server, body: &str) -> Value {
    send_new(server, json!({"recipient_user_name": "duck", "body": body})).await
}

async fn send_new(server: &Server, new: Value) -> Value {
    let sent = post(server, "bugs", "/api/messages", new).await;
    assert_eq!(sent.status, 201, "{}", String::from_utf8_lossy(&sent.bytes));
    let sent = sent.json();
    assert_eq!(sent["link_preview"], Value::Null);
    sent
}

/// Waits until a condition holds for a message as bugs reads it, and returns the message.
async fn wait_for(server: &Server, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let message = get(server, "bugs", path).await.json();
        if holds(&message) {
            return message;
        }
        assert!(begun.elapsed() < LIMIT, "{message}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for the preview of a message, and returns the preview.
async fn preview_of(server: &Server, message: &Value) -> Value {
    wait_for(server, &path_of(message), |message| message["link_preview"].is_object()).await["link_preview"].clone()
}

/// How many messages had an outcome.
async fn outcomes(server: &Server, outcome: &str) -> u64 {
    let text = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    let name = format!("posthaste_link_previews_total{{outcome=\"{outcome}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&*name)).map_or(0, |count| count.parse().unwrap())
}

/// Waits until as many messages had an outcome.
async fn wait_for_outcomes(server: &Server, outcome: &str, count: u64) {
    let begun = Instant::now();
    while outcomes(server, outcome).await < count {
        assert!(begun.elapsed() < LIMIT, "{outcome}: {} of {count}", outcomes(server, outcome).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(outcomes(server, outcome).await, count, "{outcome}");
}
