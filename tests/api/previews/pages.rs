//! Pages of every kind, and what a preview shows of them.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::*;
use crate::both;
use crate::support::files::png;

fn content(content_type: &'static str, bytes: impl Into<Vec<u8>>) -> Reply {
    Reply::Content(200, content_type, bytes.into())
}

fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

both!(titles_are_read_in_every_encoding, async |place| {
    let server = start(place).await;
    let site = Site::start(|target| match target {
        "/latin" => content("text/html; charset=ISO-8859-1", *b"<title>caf\xE9</title>"),
        "/japanese" => content("text/html", *b"<meta charset=Shift_JIS><title>\x93\xFA\x96\x7B\x8C\xEA</title>"),
        "/utf16" => content("text/html; charset=utf-8", utf16("<title>schön</title>")),
        "/entities" => html("<title>Tom &amp; Jerry\n&#8211;   caf&eacute;</title>"),
        "/xhtml" => content("application/xhtml+xml", *b"<html><head><title>x</title></head></html>"),
        "/moved" => Reply::Redirect("deep/page".into()),
        "/deep/page" => html("<title>moved</title><meta property=og:image content=i.png>"),
        "/deep/i.png" => content("image/png", png(20, 10)),
        "/huge" => html(&format!("<title>{}</title>", "long ".repeat(50_000))),
        "/endless" => Reply::Endless("text/html", b"<title>endless</title>".to_vec()),
        other => panic!("{other}"),
    })
    .await;
    for (path, title) in [
        ("/latin", "café"),
        ("/japanese", "日本語"),
        ("/utf16", "schön"),
        ("/entities", "Tom & Jerry – café"),
        ("/xhtml", "x"),
        ("/moved", "moved"),
        ("/endless", "endless"),
    ] {
        let sent = send(&server, &format!("{}{path}", site.url)).await;
        let preview = preview_of(&server, &sent).await;
        assert_eq!(preview["title"], title, "{path}");
        assert_eq!(preview["url"], format!("{}{path}", site.url));
        assert_eq!(preview["image"].is_object(), path == "/moved", "{preview}");
    }
    let sent = send(&server, &format!("{}/huge", site.url)).await;
    let title = preview_of(&server, &sent).await["title"].as_str().unwrap().to_owned();
    assert!(title.chars().count() <= 200 && title.ends_with('…'), "{title}");
});

both!(other_answers_give_no_preview, async |place| {
    let server = start(place).await;
    let pages = |target: &str| match target {
        "/404" => Reply::Content(404, "text/html", b"<title>not found</title>".to_vec()),
        "/pdf" => content("application/pdf", *b"%PDF-1.7 <title>pdf</title>"),
        "/text" => content("text/plain", *b"<title>text</title>"),
        "/untitled" => html("<meta name=description content=text>"),
        "/gzip" => Reply::Encoded(gzip("<title>small</title>")),
        "/svg" => content("image/svg+xml", *b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        "/refresh" => html("<meta http-equiv=refresh content='0; url=/titled'>"),
        "/loop" => Reply::Redirect("/loop".into()),
        "/local" => Reply::Redirect("file:///etc/passwd".into()),
        other => panic!("{other}"),
    };
    let site = Site::start(pages).await;
    let none = ["/404", "/pdf", "/text", "/untitled", "/gzip", "/svg", "/refresh"];
    let failed = ["/loop", "/local"];
    for path in none.iter().chain(&failed) {
        send(&server, &format!("{}{path}", site.url)).await;
    }
    // No server listens there.
    send(&server, "http://127.0.0.1:9/").await;
    send(&server, &format!("{}/ http://user:password@127.0.0.1/", site.url.replace("http://", "http://a:b@"))).await;
    wait_for_outcomes(&server, "none", none.len() as u64).await;
    wait_for_outcomes(&server, "failed", failed.len() as u64 + 1).await;
    assert_eq!(outcomes(&server, "made").await, 0);
    for message in server.all("/api/messages/bugs?with=duck").await {
        assert_eq!(message["link_preview"], Value::Null, "{message}");
    }
    assert_eq!(site.targets().iter().filter(|target| *target == "/loop").count(), 5);
});

both!(an_image_is_inspected_like_an_upload, async |place| {
    let server = start(place).await;
    let site = Site::start(|target| match target {
        "/picture%20one.png" => content("image/png", png(40, 30)),
        "/" => content("image/png", png(30, 30)),
        "/large.png" => Reply::Endless("image/png", png(40, 30)),
        "/damaged.png" => content("image/png", png(40, 30)[..60].to_vec()),
        "/html.png" => content("image/png", *b"<html><script>alert(1)</script></html>"),
        "/missing.png" => Reply::Content(404, "image/png", png(10, 10)),
        page => {
            html(&format!("<title>t</title><meta property=og:image content='{}'>", page.trim_start_matches("/page")))
        }
    })
    .await;
    // A link to an image shows the image.
    let sent = send(&server, &format!("{}/picture%20one.png", site.url)).await;
    let preview = preview_of(&server, &sent).await;
    assert_eq!((&preview["title"], &preview["image"]["width"]), (&json!("picture one.png"), &json!(40)));
    let sent = send(&server, &format!("{}/", site.url)).await;
    let preview = preview_of(&server, &sent).await;
    assert_eq!((&preview["title"], &preview["image"]["width"]), (&Value::Null, &json!(30)));
    // A page whose image cannot be shown has a preview without one.
    for path in ["/large.png", "/damaged.png", "/html.png", "/missing.png", "file:///etc/passwd", "http://127.0.0.1:9/"]
    {
        let sent = send(&server, &format!("{}/page{path}", site.url)).await;
        let preview = preview_of(&server, &sent).await;
        assert_eq!((&preview["title"], &preview["image"]), (&json!("t"), &Value::Null), "{path}");
    }
    // A link to something that only says that it is an image.
    for path in ["/large.png", "/html.png"] {
        send(&server, &format!("{}{path}", site.url)).await;
    }
    wait_for_outcomes(&server, "none", 2).await;
});

both!(an_image_counts_for_the_space_of_its_sender, async |place| {
    let server = Server::start_with(place, Options { max_user_bytes: 10, ..options() }).await;
    let site = site().await;
    let sent = send(&server, &format!("{}/a", site.url)).await;
    let preview = preview_of(&server, &sent).await;
    assert_eq!((&preview["title"], &preview["image"]), (&json!("/a"), &Value::Null));
});
