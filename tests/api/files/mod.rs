//! Tests of the routes of `http/routes/files/`.

mod attachments;
mod avatars;
mod bad_input;
mod copies;
mod emoji;
mod gifs;
mod links;
mod resumable_uploads;
mod s3;
mod sweep;
