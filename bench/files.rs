//! Files: uploads and downloads compared with bare axum and a file, thumbnails compared with threads that only decode, resize and
//! encode, and pages of messages with attachments compared with pages of messages without.
//!
//! Invariant: the large files differ, so the server stores each one. Both sides of the upload ratio sync what they have written.

use std::io::Cursor;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::client::{self, Measured, Request};
use crate::data::{self, Random};
use crate::limits::Limit;
use crate::process::{Context, Outcome};
use crate::report::{Figure, Target, Unit};
use crate::server::Server;
use crate::settings::{PAGE, Settings, say};
use crate::turns::{TURNS, median, turn};

const LARGE_BYTES: usize = 100 * 1024 * 1024;
/// How many times a large file is transferred on each side. The best time counts.
const TRANSFERS: usize = 5;
/// Smallest allowed rate of a transfer, as a share of the rate of bare axum.
const TRANSFER_RATIO: f64 = 0.7;
const TRANSFER_AT_MOST_MIB: f64 = 16.0;
const PICTURES: usize = 1_000;
/// Different pictures. Each is uploaded several times, and its thumbnail is made each time.
const DIFFERENT_PICTURES: usize = 100;
/// Two megapixels.
const PICTURE_WIDTH: u32 = 1_632;
const PICTURE_HEIGHT: u32 = 1_224;
const THUMBNAIL_SIDE: u32 = 360;
/// Connections that upload pictures, each as a user of its own.
const UPLOADERS: usize = 4;
/// Minimum rate of thumbnails, as a share of the rate of threads that only decode, resize and encode.
const THUMBNAIL_RATIO: f64 = 0.5;
const SENDS_PER_SECOND: u64 = 100;
/// How many times the 99th percentile of sends may grow while thumbnails are made.
const BUSY_SENDS_TIMES: f64 = 2.0;
/// A page with attachments may take 1.3 times as long as a page without.
const PAGE_RATIO: f64 = 1.0 / 1.3;
const ANSWER_AT_MOST: Duration = Duration::from_secs(60);

/// Measures everything about files on one server. `settle` finishes the background work of the load before.
pub fn measure(
    database: &'static str,
    settings: &Settings,
    folder: &Path,
    server: &Server,
    settle: impl Fn() -> Outcome<()>,
) -> Outcome<Vec<Figure>> {
    say(&format!("{database}: files"));
    let bare = Limit::files(folder)?;
    let mut figures = transfers(database, server, &bare, &settle)?;
    drop(bare);
    figures.push(pages(database, settings, server)?);
    settle()?;
    figures.extend(thumbnails(database, server)?);
    Ok(figures)
}

/// Uploads and downloads large files on both sides in turn, and watches the memory of the server meanwhile.
fn transfers(database: &str, server: &Server, bare: &Limit, settle: impl Fn() -> Outcome<()>) -> Outcome<Vec<Figure>> {
    let mut random = Random::from_clock(16);
    let mut content: Vec<u8> = (0..LARGE_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    let (mut ours, mut limit) = (Best::default(), Best::default());
    let before_bytes = server.anonymous_memory_bytes()?;
    let peak_bytes = AtomicU64::new(before_bytes);
    for _ in 0..TRANSFERS {
        // The first bytes differ, so that the server has no file with this content yet.
        content[..8].copy_from_slice(&random.next().to_le_bytes());
        settle()?;
        let path = upload(bare.address, &Request::upload(bare.address, "/files", &content), &mut limit)?;
        download(bare.address, &Request::get(bare.address, &path), &mut limit)?;
        settle()?;
        let request = as_user(1, Request::upload(server.address, "/api/attachments", &content));
        watch(server, &peak_bytes, || {
            let answer = upload(server.address, &request, &mut ours)?;
            let attachment: Value = serde_json::from_str(&answer).context("reading an attachment")?;
            let path = attachment["url"].as_str().ok_or("an attachment has no url")?.to_owned();
            download(server.address, &as_user(1, Request::get(server.address, &path)), &mut ours)
        })?;
    }
    let figure = |what: &str, taken: Duration, limit: Duration, name: &str| Figure {
        what: format!("{what} of 100 MiB, {database}"),
        value: mebibytes_per_second(taken),
        unit: Unit::MebibytesPerSecond,
        latency_us: None,
        limit: Some((name.to_owned(), mebibytes_per_second(limit))),
        paired_ratio: None,
        target: Target::Ratio(TRANSFER_RATIO),
    };
    let grown_bytes = peak_bytes.into_inner() - before_bytes;
    Ok(vec![
        figure("upload", ours.up, limit.up, "bare axum into a file"),
        figure("download", ours.down, limit.down, "bare axum from a file"),
        Figure::memory(&format!("memory that transfers add, {database}"), grown_bytes, TRANSFER_AT_MOST_MIB),
    ])
}

/// The shortest times so far.
struct Best {
    up: Duration,
    down: Duration,
}

impl Default for Best {
    fn default() -> Self {
        Self { up: Duration::MAX, down: Duration::MAX }
    }
}

fn mebibytes_per_second(taken: Duration) -> f64 {
    LARGE_BYTES as f64 / f64::from(1 << 20) / taken.as_secs_f64()
}

fn upload(address: SocketAddr, request: &Request, best: &mut Best) -> Outcome<String> {
    let started_at = Instant::now();
    let page = client::fetch(address, request, ANSWER_AT_MOST)?;
    best.up = best.up.min(started_at.elapsed());
    let answer = String::from_utf8_lossy(&page.body).into_owned();
    if page.status == 201 { Ok(answer) } else { Err(format!("an upload: {} {answer}", page.status)) }
}

fn download(address: SocketAddr, request: &Request, best: &mut Best) -> Outcome<()> {
    let started_at = Instant::now();
    let size_bytes = client::transfer(address, request, 200, ANSWER_AT_MOST)?;
    best.down = best.down.min(started_at.elapsed());
    if size_bytes == LARGE_BYTES { Ok(()) } else { Err(format!("a download has {size_bytes} bytes")) }
}

/// Runs an action, and raises `peak_bytes` to the most memory that the server has meanwhile.
fn watch(server: &Server, peak_bytes: &AtomicU64, action: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if let Ok(bytes) = server.anonymous_memory_bytes() {
                    peak_bytes.fetch_max(bytes, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let outcome = action();
        is_over.store(true, Ordering::Relaxed);
        outcome
    })
}

fn as_user(user: u64, request: Request) -> Request {
    request.with(&format!("X-Act-As: {}", data::user_name(user)))
}

/// Reads pages of a direct conversation whose messages have one attachment each, and pages of another one without, in turn.
fn pages(database: &str, settings: &Settings, server: &Server) -> Outcome<Figure> {
    let plain = fill_direct(server, 3, false)?;
    let with_files = fill_direct(server, 5, true)?;
    let reads = |(user, conversation): (u64, i64)| {
        let path = format!("/api/conversations/{conversation}/messages?limit={PAGE}");
        let requests = vec![as_user(user, Request::get(server.address, &path))];
        turn(settings.load(server.address, requests, 200..=200))
    };
    let mut before: Vec<Measured> = vec![reads(plain)?];
    let mut measured = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let ours = reads(with_files)?;
        let after = reads(plain)?;
        let beside = f64::midpoint(before.last().map_or(0.0, |turn| turn.rate), after.rate);
        measured.push((ours, ours.rate / beside));
        before.push(after);
    }
    let (_, plain) = median(before.into_iter().map(|turn| (turn, turn.rate)).collect());
    let (ours, ratio) = median(measured);
    let what = format!("GET {PAGE} messages with attachments, {database}");
    Ok(Figure::paired(&what, ours, ("the same without", plain), ratio, Target::Ratio(PAGE_RATIO)))
}

/// Sends a page of messages from a user to the next one, and returns the user and the conversation.
fn fill_direct(server: &Server, user: u64, has_files: bool) -> Outcome<(u64, i64)> {
    let mut conversation = 0;
    for number in 0..PAGE {
        let mut message = json!({"recipient_user_name": data::user_name(user + 1), "body": data::body(&mut Random::fixed(number as u64))});
        if has_files {
            let content = format!("file {number}");
            let request = as_user(user, Request::upload(server.address, "/api/attachments", content.as_bytes()));
            message["attachment_ids"] = json!([created(server, &request)?["id"]]);
        }
        let request = as_user(user, Request::post(server.address, "/api/messages", &message.to_string(), false));
        let sent = created(server, &request)?;
        conversation = sent["conversation_id"].as_i64().ok_or("a message has no conversation")?;
    }
    Ok((user, conversation))
}

fn created(server: &Server, request: &Request) -> Outcome<Value> {
    let page = client::fetch(server.address, request, ANSWER_AT_MOST)?;
    let answer = String::from_utf8_lossy(&page.body);
    if page.status != 201 {
        return Err(format!("{} {answer}", page.status));
    }
    serde_json::from_str(&answer).context("reading an answer")
}

/// Uploads many photos while others send messages.
fn thumbnails(database: &str, server: &Server) -> Outcome<Vec<Figure>> {
    say("  drawing pictures");
    let pictures: Vec<Vec<u8>> = drawn()?;
    let bare = bare_thumbnails(&pictures)?;
    let alone = sends_meanwhile(server, || {
        thread::sleep(Duration::from_secs(10));
        Ok(())
    })?;
    let started_at = Instant::now();
    let mut taken = Duration::ZERO;
    let busy = sends_meanwhile(server, || {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let uploaders: Vec<_> = (0..UPLOADERS)
                .map(|uploader| {
                    let (next, pictures) = (&next, &pictures);
                    scope.spawn(move || -> Outcome<()> {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= PICTURES {
                                return Ok(());
                            }
                            let picture = &pictures[number % DIFFERENT_PICTURES];
                            let request = Request::upload(server.address, "/api/attachments", picture);
                            let made = created(server, &as_user(uploader as u64 + 20, request))?;
                            if made["thumbnail_url"].is_null() {
                                return Err("a picture has no thumbnail".into());
                            }
                        }
                    })
                })
                .collect();
            uploaders.into_iter().try_for_each(|uploader| uploader.join().map_err(|_| "an uploader panicked")?)
        })?;
        taken = started_at.elapsed();
        Ok(())
    })?;
    let rate = PICTURES as f64 / taken.as_secs_f64();
    Ok(vec![
        Figure::rate(
            &format!("thumbnails of 2-megapixel JPEGs, {database}"),
            Measured { rate, ..Measured::default() },
            ("decoding and resizing on all cores", bare),
            Target::Ratio(THUMBNAIL_RATIO),
        ),
        Figure::time_beside(
            &format!("99th percentile of {SENDS_PER_SECOND} sends/s beside thumbnails, {database}"),
            busy,
            ("alone", alone),
            Target::TimesAtMost(BUSY_SENDS_TIMES),
        ),
    ])
}

/// Photos that do not compress to nothing: a gradient with noise.
fn drawn() -> Outcome<Vec<Vec<u8>>> {
    (0..DIFFERENT_PICTURES)
        .map(|number| {
            let mut random = Random::fixed(number as u64);
            let picture = RgbImage::from_fn(PICTURE_WIDTH, PICTURE_HEIGHT, |x, y| {
                let noise = random.next();
                let shade = |value: u32, noise: u64| (value / 8 + (noise & 31) as u32) as u8;
                Rgb([shade(x, noise), shade(y, noise >> 8), shade(x + y, noise >> 16)])
            });
            let mut file = Vec::new();
            JpegEncoder::new_with_quality(&mut file, 85).encode_image(&picture).context("drawing a picture")?;
            Ok(file)
        })
        .collect()
}

/// Thumbnails per second that threads make which only decode, resize and encode, one thread for each core.
fn bare_thumbnails(pictures: &[Vec<u8>]) -> Outcome<f64> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let started_at = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|worker| {
                scope.spawn(move || -> Outcome<()> {
                    for picture in pictures.iter().skip(worker).step_by(cores) {
                        let picture =
                            image::load_from_memory_with_format(picture, ImageFormat::Jpeg).context("decoding")?;
                        let small = picture.thumbnail(THUMBNAIL_SIDE, THUMBNAIL_SIDE);
                        small.write_to(&mut Cursor::new(Vec::new()), ImageFormat::Jpeg).context("encoding")?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?)
    })?;
    Ok(pictures.len() as f64 / started_at.elapsed().as_secs_f64())
}

/// Sends messages at a constant rate while an action runs, and returns the 99th percentile of the times until their answers.
fn sends_meanwhile(server: &Server, action: impl FnOnce() -> Outcome<()> + Send) -> Outcome<Duration> {
    let is_over = AtomicBool::new(false);
    let mut taken = thread::scope(|scope| {
        let sender = scope.spawn(|| paced_sends(server.address, &is_over));
        let outcome = action();
        is_over.store(true, Ordering::Relaxed);
        let taken = sender.join().map_err(|_| "the sender panicked".to_owned())?;
        outcome.and(taken)
    })?;
    taken.sort_unstable();
    taken.get(taken.len() * 99 / 100).copied().ok_or_else(|| "nothing was sent".into())
}

fn paced_sends(address: SocketAddr, is_over: &AtomicBool) -> Outcome<Vec<Duration>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let (sender, recipient) = (data::user_name(1), data::user_name(2));
    let body = json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": "x"});
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().context("making a client")?;
        let mut tick = tokio::time::interval(Duration::from_millis(1_000 / SENDS_PER_SECOND));
        let mut sends = tokio::task::JoinSet::new();
        while !is_over.load(Ordering::Relaxed) {
            tick.tick().await;
            let request = client.post(format!("http://{address}/api/messages")).json(&body);
            sends.spawn(async move {
                let sent_at = Instant::now();
                let answer = request.send().await.context("sending a message")?;
                let status = answer.status();
                answer.bytes().await.context("reading the answer to a send")?;
                if status == 201 { Ok(sent_at.elapsed()) } else { Err(format!("a send: {status}")) }
            });
        }
        sends.join_all().await.into_iter().collect()
    })
}
