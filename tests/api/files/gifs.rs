//! Searching GIFs here and in services, and turning them into attachments.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use posthaste::base::time::Clock;
use posthaste::domain::files::gif_provider::{Service, ServiceSettings};
use posthaste::domain::files::gif_search::Rating;
use posthaste::domain::files::gif_search::{GifSettings, GifSource};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::both;
use crate::support::files::{encoded, gif, noise, picture, png, stored, wait_for_stored};
use crate::support::people::{delete, get};
use crate::support::server::{Answer, Options};
use crate::support::{Place, Server, answer_of};

const KEY: &str = "the-secret-key-of-the-operator";

fn local(rating: Rating) -> Options {
    Options { gifs: Some(GifSettings { source: GifSource::Local, rating }), ..Options::default() }
}

fn service(stand_in: &StandIn, service: Service) -> GifSettings {
    let url = stand_in.url.parse().unwrap();
    let settings = ServiceSettings { service, url, key: KEY.into() };
    GifSettings { source: GifSource::Service(settings), rating: Rating::Pg }
}

async fn with_service(place: &Place, stand_in: &StandIn, which: Service) -> Server {
    Server::start_with(place, Options { gifs: Some(service(stand_in, which)), ..Options::default() }).await
}

async fn add(server: &Server, query: &str, bytes: Vec<u8>) -> Answer {
    answer_of(server.request(Method::POST, &format!("/api/gifs?{query}")).body(bytes)).await
}

async fn attach(server: &Server, person: &str, id: &str) -> Answer {
    answer_of(server.request(Method::POST, &format!("/api/gifs/{id}/attach")).header("x-act-as", person)).await
}

async fn titles(server: &Server, target: &str) -> Vec<String> {
    let answer = server.get(target).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json().as_array().unwrap().iter().map(|gif| gif["title"].as_str().unwrap().to_owned()).collect()
}

type Handler = Box<dyn Fn(&str) -> Option<Response> + Send + Sync>;

/// A service for GIFs that records what it is asked.
struct StandIn {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    /// `answer` gets the base address, and gives the answers to lists. `/media/…` is answered with GIFs.
    async fn start(answer: impl Fn(&str, &str) -> Option<Response> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, base) = (Arc::clone(&asked), url.clone());
        let answer: Arc<Handler> = Arc::new(Box::new(move |target| answer(&base, target)));
        let handler = move |uri: Uri| {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            async move {
                let target = uri.to_string();
                kept.lock().unwrap().push(target.clone());
                if target.contains("hang") {
                    std::future::pending::<()>().await;
                }
                answer(&target).unwrap_or_else(|| media(&target))
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn media(target: &str) -> Response {
    match target {
        "/media/page" => ([(header::CONTENT_TYPE, "image/gif")], "<html><script>alert(1)</script>").into_response(),
        "/media/private" => Redirect::temporary("http://127.0.0.1:1/").into_response(),
        "/media/endless" => {
            let piece = || Ok::<_, std::io::Error>(axum::body::Bytes::from(vec![b'G'; 65_536]));
            let pieces = futures_util::stream::repeat_with(piece);
            Body::from_stream(pieces).into_response()
        }
        target if target.starts_with("/media/") => ([(header::CONTENT_TYPE, "text/html")], gif(40, 30)).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn answered(value: &Value) -> Option<Response> {
    Some(([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response())
}

fn giphy_gif(base: &str, id: &str, rating: &str) -> Value {
    let image = |name: &str, width: &str| json!({"url": format!("{base}/media/{name}"), "width": width, "height": "30", "size": "1000"});
    json!({
        "type": "gif", "id": id, "title": format!("{id} dances"), "rating": rating, "username": "ada",
        "url": format!("https://giphy.com/gifs/{id}"), "is_sticker": 0,
        "images": {"original": image(id, "400"), "downsized": image(id, "200"), "fixed_width": image("small", "100")}
    })
}

async fn giphy() -> StandIn {
    StandIn::start(|base, target| {
        if target.contains("q=down") {
            return Some(StatusCode::INTERNAL_SERVER_ERROR.into_response());
        }
        if target.contains("q=busy") {
            return Some(StatusCode::TOO_MANY_REQUESTS.into_response());
        }
        if target.contains("q=garbage") {
            return Some("{\"data\": [".into_response());
        }
        if target.contains("q=refused") {
            return Some(StatusCode::FORBIDDEN.into_response());
        }
        if target.contains("q=moved") {
            return Some(Redirect::temporary("http://127.0.0.1:1/").into_response());
        }
        if target.starts_with("/v1/gifs/search") || target.starts_with("/v1/gifs/trending") {
            let ids = ["cat", "page", "private", "endless", "hang"];
            let mut data: Vec<Value> = ids.iter().map(|id| giphy_gif(base, id, "g")).collect();
            data.push(giphy_gif(base, "rude", "r"));
            data.push(giphy_gif(base, "unrated", ""));
            data.push(giphy_gif(base, "../../admin", "g"));
            data.push(json!({"id": 7, "images": null}));
            return answered(&json!({"data": data, "pagination": {"total_count": 500, "count": 8, "offset": 0}}));
        }
        if target.starts_with("/v1/gifs/late?") {
            return answered(&json!({"data": giphy_gif(base, "late", "pg")}));
        }
        if target.starts_with("/v1/gifs/rude?") {
            return answered(&json!({"data": giphy_gif(base, "rude", "r")}));
        }
        None
    })
    .await
}

async fn klipy() -> StandIn {
    StandIn::start(|base, target| {
        let file = |name: &str, width: i64| {
            json!({"gif": {"url": format!("{base}/media/{name}"), "width": width, "height": 30, "size": 1000}})
        };
        let one = |slug: &str| {
            json!({"id": 7, "slug": slug, "title": "Dog", "type": "gif", "tags": ["dog"], "blur_preview": "x",
                   "file": {"hd": file("large", 400), "md": file("middle", 200), "sm": file("small", 100)}})
        };
        let advertisement = json!({"type": "ad", "content": "<html>", "width": 300, "height": 250});
        let page = |data: Vec<Value>, has_next: bool| {
            json!({"result": true, "data": {"data": data, "current_page": 1, "per_page": 24, "has_next": has_next}})
        };
        if target.starts_with(&format!("/api/v1/{}/gifs/items?slugs=dog", KEY.replace('-', "%2D"))) {
            return answered(&page(vec![one("dog")], false));
        }
        if target.contains("/gifs/items") {
            return answered(&page(vec![], false));
        }
        if target.contains("/gifs/search") || target.contains("/gifs/trending") {
            let has_next = !target.contains("&page=2&");
            return answered(&page(vec![one("dog"), advertisement], has_next));
        }
        None
    })
    .await
}

both!(gifs_of_the_server_are_found_by_the_beginnings_of_words, async |place| {
    let server = Server::start_with(place, local(Rating::Pg)).await;
    assert_eq!(server.get("/api/capabilities").await.json()["gif_search"]["provider"], "local");
    assert_eq!(titles(&server, "/api/gifs/search?q=PART").await, ["Fireworks", "Confetti"]);
    assert_eq!(titles(&server, "/api/gifs/search?q=new+y%C3%A9ar").await, ["Fireworks"]);
    assert!(titles(&server, "/api/gifs/search?q=party+rocket").await.is_empty());
    assert!(titles(&server, "/api/gifs/search?q=%21%21").await.is_empty());
    let all = titles(&server, "/api/gifs/trending").await;
    assert_eq!((all.len(), all[0].as_str()), (10, "Thumbs up"));
    let first = server.get("/api/gifs/trending?limit=6").await;
    assert_eq!(titles(&server, &first.next().unwrap()).await, all[6..]);
    server.get("/api/gifs/search").await.invalid(&["q"]);
    server.get("/api/gifs/search?q=").await.invalid(&["q"]);
    server.get(&format!("/api/gifs/search?q={}", "a".repeat(51))).await.invalid(&["q"]);

    let found = server.get("/api/gifs/search?q=heart").await.json();
    let preview = server.get(found[0]["preview_url"].as_str().unwrap()).await;
    assert_eq!((preview.status.as_u16(), preview.header("content-type")), (200, Some("image/gif")));
    assert_eq!(preview.header("x-content-type-options"), Some("nosniff"));
    let id = found[0]["id"].as_str().unwrap();
    let attached = attach(&server, "bugs", id).await;
    assert_eq!(attached.status, 201, "{}", String::from_utf8_lossy(&attached.bytes));
    let attachment = attached.json();
    assert_eq!((&attachment["file_name"], &attachment["width"]), (&json!("Heartbeat.gif"), &json!(160)));
    assert_eq!(attached.header("location"), attachment["url"].as_str());
    let url = attachment["url"].as_str().unwrap();
    assert_eq!(get(&server, "bugs", url).await.bytes, preview.bytes);
    get(&server, "duck", url).await.problem(404, "attachment_not_found");
    for id in ["0", "9999", "x", "01", "%2B1", "-1"] {
        server.get(&format!("/api/gifs/{id}/preview")).await.problem(404, "gif_not_found");
        attach(&server, "bugs", id).await.problem(404, "gif_not_found");
    }
});

both!(administrators_add_and_delete_gifs, async |place| {
    let server = Server::start_with(place, Options { demo: false, ..local(Rating::Pg) }).await;
    let bytes = gif(20, 10);
    let answer = add(&server, "pack=office&title=Coffee+time&tags=break,+morning&rating=pg", bytes.clone()).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    let made = answer.json();
    assert_eq!(
        (&made["tags"], &made["rating"], &made["width"]),
        (&json!(["break", "morning"]), &json!("pg"), &json!(20))
    );
    assert_eq!(answer.header("location").unwrap(), format!("/api/gifs/{}", made["id"]));
    assert_eq!(add(&server, "pack=office&title=Rude&rating=r", gif(30, 10)).await.status, 201);
    assert_eq!(
        add(&server, "pack=pets&title=Cat", encoded(&picture(9, 9), image::ImageFormat::WebP)).await.status,
        201
    );
    assert_eq!(titles(&server, "/api/gifs").await, ["Cat", "Rude", "Coffee time"]);
    // GIFs for a narrower audience than the server's rating are not found.
    assert_eq!(titles(&server, "/api/gifs/trending").await, ["Cat", "Coffee time"]);
    assert!(titles(&server, "/api/gifs/search?q=rude").await.is_empty());
    let rude = server.get("/api/gifs").await.json()[1]["id"].to_string();
    server.get(&format!("/api/gifs/{rude}/preview")).await.problem(404, "gif_not_found");

    for (query, fields) in [
        ("title=a", vec!["pack"]),
        ("pack=a", vec!["title"]),
        ("pack=a&title=%20", vec!["title"]),
        ("pack=a&title=a&rating=x", vec!["rating"]),
        ("pack=a&title=a&tags=a,,b", vec!["tags"]),
        ("pack=a&title=a&more=1", vec!["more"]),
    ] {
        add(&server, query, bytes.clone()).await.invalid(&fields);
    }
    let many = vec!["a"; 21].join(",");
    add(&server, &format!("pack=a&title=a&tags={many}"), bytes.clone()).await.invalid(&["tags"]);
    let before = stored(place);
    for wrong in [png(8, 8), noise(500), b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec()] {
        add(&server, "pack=a&title=a", wrong).await.problem(422, "unsupported_image_type");
    }
    add(&server, "pack=a&title=a", vec![b'G'; 8 * 1_024 * 1_024 + 1]).await.problem(413, "file_too_large");
    assert_eq!(stored(place), before);

    // An attachment stays when its GIF is deleted, and the bytes vanish with the last of both.
    assert_eq!(server.post("/api/users", &json!({"user_name": "bugs"})).await.status, 201);
    let id = made["id"].to_string();
    let attached = attach(&server, "bugs", &id).await.json();
    let deletion = |target: String| answer_of(server.request(Method::DELETE, &target));
    assert_eq!(deletion(format!("/api/gifs/{id}")).await.status, 204);
    deletion(format!("/api/gifs/{id}")).await.problem(404, "gif_not_found");
    assert_eq!(get(&server, "bugs", attached["url"].as_str().unwrap()).await.bytes, bytes);
    assert_eq!(deletion("/api/gifs/packs/office".into()).await.status, 204);
    assert_eq!(deletion("/api/gifs/packs/pets".into()).await.status, 204);
    deletion("/api/gifs/packs/office".into()).await.problem(404, "gif_not_found");
    assert!(titles(&server, "/api/gifs").await.is_empty());
    assert_eq!(delete(&server, "bugs", "/api/users/bugs").await.status, 204);
    wait_for_stored(place, 0).await;
});

both!(without_a_provider_the_search_says_so, async |place| {
    let server = Server::start(place).await;
    assert_eq!(server.get("/api/capabilities").await.json()["gif_search"], Value::Null);
    server.get("/api/gifs/search?q=cat").await.problem(501, "gif_search_not_configured");
    server.get("/api/gifs/trending").await.problem(501, "gif_search_not_configured");
    server.get("/api/gifs/1/preview").await.problem(501, "gif_search_not_configured");
    attach(&server, "bugs", "1").await.problem(501, "gif_search_not_configured");
});

both!(giphy_is_searched_through_the_server, async |place| {
    let stand_in = giphy().await;
    let server = with_service(place, &stand_in, Service::Giphy).await;
    let capability = server.get("/api/capabilities").await.json()["gif_search"].clone();
    assert_eq!(capability, json!({"provider": "giphy", "attribution": "Powered by GIPHY"}));
    let answer = server.get("/api/gifs/search?q=Happy+C%C3%A1t&limit=8").await;
    let found = answer.json();
    // Without those whose rating is above the limit or unknown, and without impossible ids.
    let ids: Vec<&str> = found.as_array().unwrap().iter().map(|gif| gif["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["cat", "page", "private", "endless", "hang"]);
    let cat = json!({
        "id": "cat", "title": "cat dances", "width": 200, "height": 30, "preview_url": "/api/gifs/cat/preview",
        "provider": "giphy", "attribution": "Powered by GIPHY", "page_url": "https://giphy.com/gifs/cat", "author": "ada"
    });
    assert_eq!(found[0], cat);
    let text = String::from_utf8_lossy(&answer.bytes);
    assert!(!text.contains(KEY) && !text.contains(&stand_in.url), "{text}");
    let asked = format!("/v1/gifs/search?q=happy+c%C3%A1t&api_key={KEY}&limit=8&offset=0&rating=pg");
    assert_eq!(stand_in.asked(), [asked]);
    // The next page is the page of the service.
    server.get(&answer.next().unwrap()).await;
    assert!(stand_in.asked()[1].contains("offset=8"), "{:?}", stand_in.asked());
    assert_eq!(server.get("/api/gifs/trending").await.status, 200);
    assert!(stand_in.asked()[2].starts_with("/v1/gifs/trending?api_key="));

    let preview = server.get("/api/gifs/cat/preview").await;
    assert_eq!((preview.status.as_u16(), preview.header("content-type")), (200, Some("image/gif")));
    assert_eq!(preview.header("x-content-type-options"), Some("nosniff"));
    let request = server.request(Method::POST, "/api/gifs/cat/attach").header("x-act-as", "bugs");
    let request = || request.try_clone().unwrap().header("idempotency-key", "cat-1");
    let first = answer_of(request()).await;
    assert_eq!(first.status, 201, "{}", String::from_utf8_lossy(&first.bytes));
    assert_eq!(
        (&first.json()["content_type"], &first.json()["file_name"]),
        (&json!("image/gif"), &json!("cat dances.gif"))
    );
    let count = stand_in.asked().len();
    let again = answer_of(request()).await;
    assert_eq!((again.bytes, again.headers["idempotency-replayed"].to_str().unwrap()), (first.bytes, "true"));
    assert_eq!(stand_in.asked().len(), count);

    // A GIF of no recent list is looked up by its id.
    assert_eq!(attach(&server, "bugs", "late").await.status, 201);
    for id in ["rude", "none", "a%2Fb", "..%2F..%2Fadmin", &"a".repeat(129)] {
        attach(&server, "bugs", id).await.problem(404, "gif_not_found");
    }
});

both!(klipy_is_searched_through_the_server, async |place| {
    let stand_in = klipy().await;
    let server = with_service(place, &stand_in, Service::Klipy).await;
    let answer = server.get("/api/gifs/search?q=dog&limit=24").await;
    // Advertisements are left out.
    assert_eq!(
        answer.json(),
        json!([{
            "id": "dog", "title": "Dog", "width": 200, "height": 30, "preview_url": "/api/gifs/dog/preview",
            "provider": "klipy", "attribution": "Powered by KLIPY", "page_url": null, "author": null
        }])
    );
    let key = KEY.replace('-', "%2D");
    let asked =
        format!("/api/v1/{key}/gifs/search?q=dog&page=1&per_page=24&content_filter=medium&format_filter=gif%2Cwebp");
    assert_eq!(stand_in.asked(), [asked]);
    let second = server.get(&answer.next().unwrap()).await;
    assert_eq!((second.status.as_u16(), second.next()), (200, None));
    assert_eq!(server.get("/api/gifs/dog/preview").await.status, 200);
    assert_eq!(attach(&server, "bugs", "dog").await.status, 201);
    attach(&server, "bugs", "nothing").await.problem(404, "gif_not_found");
});

both!(answers_of_a_service_are_kept_for_a_while, async |place| {
    let stand_in = giphy().await;
    let hand = Arc::new(AtomicI64::new(1_800_000_000_000_000));
    let options = Options {
        clock: Clock::Manual(Arc::clone(&hand)),
        gifs: Some(service(&stand_in, Service::Giphy)),
        ..Options::default()
    };
    let server = Server::start_with(place, options).await;
    let searches = (0..8).map(|_| server.get("/api/gifs/search?q=cat"));
    assert!(futures_util::future::join_all(searches).await.iter().all(|answer| answer.status == 200));
    assert_eq!(server.get("/api/gifs/search?q=%20CAT").await.status, 200);
    assert_eq!(stand_in.asked().len(), 1);
    hand.fetch_add(5 * 60 * 1_000_000, Ordering::Relaxed);
    assert_eq!(server.get("/api/gifs/search?q=cat").await.status, 200);
    assert_eq!(stand_in.asked().len(), 2);
});

both!(a_service_that_fails_is_503, async |place| {
    let stand_in = giphy().await;
    let server = with_service(place, &stand_in, Service::Giphy).await;
    for q in ["down", "busy", "garbage", "refused", "moved"] {
        let answer = server.get(&format!("/api/gifs/search?q={q}")).await;
        let problem = answer.problem(503, "gif_provider_unavailable").to_string();
        assert_eq!(answer.header("retry-after"), Some("10"));
        assert!(!problem.contains(KEY) && !problem.contains("127.0.0.1"), "{problem}");
    }
    assert_eq!(server.get("/api/gifs/trending").await.status, 200);
    let before = stored(place);
    // A page instead of a picture, and a redirect to a private address.
    for id in ["page", "private"] {
        attach(&server, "bugs", id).await.problem(503, "gif_provider_unavailable");
    }
    attach(&server, "bugs", "endless").await.problem(413, "file_too_large");
    assert_eq!(stored(place), before);
    let stopped = Server::start_with(
        place,
        Options {
            gifs: Some(service(&StandIn { url: "http://127.0.0.1:1".into(), asked: Arc::default() }, Service::Klipy)),
            demo: false,
            ..Options::default()
        },
    );
    stopped.await.get("/api/gifs/trending").await.problem(503, "gif_provider_unavailable");
});

both!(a_service_that_hangs_is_503_within_10_s, async |place| {
    let stand_in = giphy().await;
    let server = with_service(place, &stand_in, Service::Giphy).await;
    let asking = tokio::time::timeout(Duration::from_secs(10), server.get("/api/gifs/search?q=hang"));
    asking.await.unwrap().problem(503, "gif_provider_unavailable");
});

both!(searches_of_one_user_are_limited, async |place| {
    let server = Server::start_with(place, Options { rate_limits: true, ..local(Rating::Pg) }).await;
    let mut refused = None;
    for _ in 0..60 {
        let answer = get(&server, "bugs", "/api/gifs/search?q=heart").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    refused.expect("a refusal").problem(429, "rate_limited");
    assert_eq!(get(&server, "duck", "/api/gifs/search?q=heart").await.status, 200);
});

#[test]
fn options_that_do_not_fit_are_refused() {
    for (arguments, sentence) in [
        (&["--gif-provider", "giphy"][..], "needs --gif-api-key"),
        (&["--gif-api-key", "x"][..], "klipy and giphy only"),
        (&["--gif-provider", "local", "--gif-url", "http://127.0.0.1/"][..], "klipy and giphy only"),
        (&["--gif-provider", "klipy", "--gif-api-key", "x", "--gif-url", "ftp://x"][..], "--gif-url must be"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(sentence), "{arguments:?}: {text}");
    }
}
