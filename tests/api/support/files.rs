//! Uploading files, and files to upload.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use reqwest::Method;
use serde_json::{Value, json};

use super::place::Kind;
use super::{Answer, Place, Server, answer_of};

/// A picture with a pattern.
pub fn picture(width: u32, height: u32) -> DynamicImage {
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| Rgb([(x % 256) as u8, (y % 256) as u8, 90])))
}

/// A picture as PNG.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    encoded(&picture(width, height), ImageFormat::Png)
}

/// A GIF with one frame.
pub fn gif(width: u32, height: u32) -> Vec<u8> {
    encoded(&picture(width, height), ImageFormat::Gif)
}

pub fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Bytes that no program takes for a known type of file.
pub fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(6_364_136_223_846_793_005) >> 33) as u8 | 0x80).collect()
}

/// Uploads a file as a user.
pub async fn upload(server: &Server, user: &str, name: &str, bytes: &[u8]) -> Answer {
    let request = server
        .request(Method::POST, "/api/attachments")
        .header("x-act-as", user)
        .header("content-disposition", format!("attachment; filename=\"{name}\""));
    answer_of(request.body(bytes.to_vec())).await
}

/// Uploads a file that must be accepted, and returns its id.
pub async fn uploaded(server: &Server, user: &str, name: &str, bytes: &[u8]) -> i64 {
    let answer = upload(server, user, name, bytes).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()["id"].as_i64().unwrap()
}

/// Sends a direct message with attachments. It must be accepted.
pub async fn send_with(server: &Server, sender: &str, recipient: &str, attachments: &[i64]) -> Value {
    let body = json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": "see", "attachment_ids": attachments});
    let answer = server.post("/api/messages", &body).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

/// Lets three hours pass for all blobs, so that the sweep deletes those that were only claimed.
pub async fn age_blobs(place: &Place) {
    let back = match place.kind {
        Kind::Sqlite => "UPDATE messaging.blobs SET touched_at = touched_at - 10800000000",
        Kind::Postgres => "UPDATE messaging.blobs SET touched_at = touched_at - interval '3 hours'",
    };
    place.sql(back).await;
}

/// The names of the stored objects in the folder of a place, and of unfinished uploads.
pub fn stored(place: &Place) -> Vec<String> {
    let mut open = vec![place.folder.path().join("files"), place.folder.path().join("uploads")];
    let mut names = Vec::new();
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                names.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    names
}

/// Waits until as many objects are stored.
pub async fn wait_for_stored(place: &Place, count: usize) {
    for _ in 0..200 {
        if stored(place).len() == count {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(stored(place).len(), count, "{:?}", stored(place));
}
