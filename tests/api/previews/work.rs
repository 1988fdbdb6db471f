//! Fetching: its limits, and what happens while a site does not answer or a task fails.

use posthaste::domain::previews::queue::MAX_FETCHES;
use serde_json::{Value, json};

use super::*;
use crate::both;
use crate::support::people::delete;
use crate::support::place::Kind;
use crate::support::watch::Socket;

both!(a_site_that_does_not_answer_delays_nobody, async |place| {
    let server = start(place).await;
    let slow = Site::start_at("127.0.0.2", |target| match target {
        "/hangs" => Reply::Hangs,
        _ => Reply::Slow("<title>this title takes more than ten seconds to arrive, byte by byte</title>"),
    })
    .await;
    let other =
        Site::start_at("127.0.0.3", |_| Reply::Slow("<title>much too slow, for ten seconds are not enough</title>"))
            .await;
    let site = site().await;
    let begun = Instant::now();
    for url in [format!("{}/hangs", slow.url), format!("{}/slow", other.url)] {
        send(&server, &url).await;
    }
    // Another page of the host waits for the first one.
    send(&server, &format!("{}/slow", slow.url)).await;
    let sent = send(&server, &format!("{}/a", site.url)).await;
    assert_eq!(preview_of(&server, &sent).await["title"], "/a");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(slow.targets(), ["/hangs"]);
    wait_for_outcomes(&server, "failed", 2).await;
    assert!((8..20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
});

both!(a_page_is_fetched_once_for_all_messages, async |place| {
    let (server, site) = (start(place).await, site().await);
    let url = format!("{}/a", site.url);
    let (one, two, three) = tokio::join!(send(&server, &url), send(&server, &url), send(&server, &url));
    let mut images = Vec::new();
    for message in [one, two, three] {
        let preview = preview_of(&server, &message).await;
        assert_eq!(preview["title"], "/a");
        images.push(preview["image"]["id"].as_i64().unwrap());
    }
    images.dedup();
    assert_eq!(images.len(), 3);
    assert_eq!(site.targets(), ["/a", "/image.png"]);
    // Also that a page has no preview is remembered.
    let empty = Site::start(|_| Reply::Content(404, "text/html", Vec::new())).await;
    for _ in 0..2 {
        send(&server, &empty.url).await;
    }
    wait_for_outcomes(&server, "none", 2).await;
    assert_eq!(empty.targets().len(), 1);
});

both!(a_user_causes_a_limited_number_of_fetches, async |place| {
    let server = start(place).await;
    let site = Site::start(|target| html(&format!("<title>{target}</title>"))).await;
    for number in 0..MAX_FETCHES + 3 {
        send(&server, &format!("{}/{number}", site.url)).await;
    }
    wait_for_outcomes(&server, "limited", 3).await;
    wait_for_outcomes(&server, "made", MAX_FETCHES.into()).await;
    assert_eq!(site.targets().len(), MAX_FETCHES as usize);
    // A known page needs no fetch, and other users have their own limit.
    let sent = send(&server, &format!("{}/0", site.url)).await;
    preview_of(&server, &sent).await;
    let sent = post(
        &server,
        "porky",
        "/api/messages",
        json!({"recipient_user_name": "bugs", "body": format!("{}/x", site.url)}),
    );
    preview_of(&server, &sent.await.json()).await;
});

both!(private_addresses_are_not_called_with_public, async |place| {
    let server =
        Server::start_with(place, Options { link_previews: Some(Reach::PublicWeb), ..Options::default() }).await;
    let site = site().await;
    let port = site.url.rsplit_once(':').unwrap().1.to_owned();
    let urls =
        [site.url.clone(), format!("http://localhost:{port}/"), "http://localhost/".into(), "http://[::1]/".into()];
    for url in &urls {
        send(&server, url).await;
    }
    wait_for_outcomes(&server, "failed", urls.len() as u64).await;
    assert_eq!(site.targets(), [""; 0]);
});

both!(a_message_that_is_deleted_meanwhile_gets_no_preview, async |place| {
    let server = start(place).await;
    let site = Site::start(|_| Reply::Slow("<title>slow</title>")).await;
    let sent = send(&server, &site.url).await;
    let edited = send(&server, &format!("{}/edited", site.url)).await;
    let begun = Instant::now();
    while site.targets().is_empty() {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(delete(&server, "bugs", &path_of(&sent)).await.status, 204);
    let body = json!({"body": "no link any more"});
    assert_eq!(patch(&server, "bugs", &path_of(&edited), body).await.status, 200);
    wait_for_outcomes(&server, "none", 2).await;
    for message in [&sent, &edited] {
        assert_eq!(get(&server, "bugs", &path_of(message)).await.json()["link_preview"], Value::Null);
    }
});

both!(a_task_that_fails_loses_no_waiting_message, async |place| {
    let (server, site) = (start(place).await, site().await);
    server.tasks.make_panic("link-previews");
    let sent = send(&server, &format!("{}/a", site.url)).await;
    assert_eq!(preview_of(&server, &sent).await["title"], "/a");
    let metrics = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    assert!(metrics.contains("posthaste_task_restarts_total{task=\"link-previews\"} 1"), "{metrics}");
});

#[test]
fn two_servers_make_one_preview() {
    crate::support::run(Kind::Postgres, async |place| {
        let (one, other) = (start(place).await, start(place).await);
        let site = site().await;
        let mut socket = Socket::of(&other, "duck").await;
        let sent = send(&one, &format!("{}/a", site.url)).await;
        let event = socket.event_of("message.updated").await;
        assert_eq!(event["data"]["link_preview"]["title"], "/a");
        let last = send(&one, "no link").await;
        let next = socket.event().await;
        assert_eq!((&next["type"], &next["data"]["id"]), (&json!("message.created"), &last["id"]));
        assert_eq!(get(&other, "duck", &path_of(&sent)).await.json()["link_preview"], event["data"]["link_preview"]);
        assert_eq!(site.targets(), ["/a", "/image.png"]);
    });
}
