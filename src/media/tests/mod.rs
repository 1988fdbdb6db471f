//! Tests of the inspection of uploads. Each input is built by the test that uses it, or by `samples.rs`.

mod animations;
mod containers;
mod damage;
mod limits;
mod metadata;
mod orientation;
mod samples;
mod sound;
mod thumbnails;
mod types;

use std::fs;

use super::{Inspected, Kind, Limits, Refusal, inspect};

/// The outcome of an inspection, with the bytes that would be stored.
struct Outcome {
    inspected: Inspected,
    stored: Vec<u8>,
}

fn try_inspect(upload: &[u8], limits: &Limits) -> Result<Outcome, Refusal> {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    fs::write(&source, upload).unwrap();
    let result = inspect(&source, &target, limits);
    assert_eq!(fs::read(&source).unwrap(), upload, "the source was changed");
    let cleaned = result.as_ref().is_ok_and(|inspected| inspected.cleaned);
    assert_eq!(target.exists(), cleaned, "the target exists exactly if the file was cleaned");
    let stored = if cleaned { fs::read(&target).unwrap() } else { upload.to_vec() };
    result.map(|inspected| Outcome { inspected, stored })
}

fn inspect_bytes(upload: &[u8]) -> Outcome {
    try_inspect(upload, &Limits::default()).unwrap()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}
