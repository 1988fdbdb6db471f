//! Tests of the routes of `http/routes/files/`.

mod attachments;
mod bad_input;
mod resumable_uploads;
mod sweep;
