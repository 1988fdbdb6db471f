//! Tests of the routes of `http/routes/files/`.

mod attachments;
mod bad_input;
mod copies;
mod resumable_uploads;
mod s3;
mod sweep;
