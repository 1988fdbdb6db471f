//! Measures of videos, and what is removed from them.

use std::time::{Duration, Instant};

use super::samples::*;
use super::{Kind, contains, inspect_bytes};

#[test]
fn an_mp4_loses_each_place_and_keeps_its_length() {
    let upload = mp4(false);
    let outcome = inspect_bytes(&upload);
    let inspected = outcome.inspected;
    assert_eq!((inspected.content_type.as_str(), inspected.kind), ("video/mp4", Kind::Video));
    assert_eq!((inspected.width, inspected.height, inspected.duration_ms), (Some(640), Some(360), Some(2500)));
    assert!(inspected.cleaned);
    assert!(!contains(&outcome.stored, PLACE));
    assert_eq!(outcome.stored.len(), upload.len());
    let samples = upload.windows(6).position(|six| six == b"pixels").unwrap();
    assert_eq!(&outcome.stored[..samples + 6], &upload[..samples + 6]);
    for kept in [b"mvhd", b"tkhd", b"stco"] {
        assert!(contains(&outcome.stored, kept));
    }
    assert_eq!(outcome.stored.windows(4).filter(|four| four == b"free").count(), 4);
}

#[test]
fn a_turned_video_has_the_size_as_displayed() {
    let inspected = inspect_bytes(&mp4(true)).inspected;
    assert_eq!((inspected.width, inspected.height), (Some(360), Some(640)));
}

#[test]
fn a_broken_video_is_stored_with_what_is_known() {
    let whole = mp4(false);
    let uuid = whole.len() - 5;
    let outcome = inspect_bytes(&whole[..uuid]);
    assert_eq!(outcome.inspected.duration_ms, Some(2500));
    let outcome = inspect_bytes(&whole[..40]);
    assert_eq!((outcome.inspected.kind, outcome.inspected.duration_ms), (Kind::Video, None));
    assert!(!outcome.inspected.cleaned);
}

#[test]
fn a_sample_table_that_names_the_same_bytes_many_times() {
    let chunks = 100_000;
    let offsets = vec![0; chunks];
    let table = [
        mp4_box(b"stsc", &words(&[0, 1, 1, 1, 1])),
        mp4_box(b"stsz", &words(&[0, u32::MAX, 1])),
        mp4_box(b"stco", &words(&[&[0, chunks as u32], offsets.as_slice()].concat())),
    ];
    let information = mp4_box(b"minf", &mp4_box(b"stbl", &table.concat()));
    let handler = mp4_box(b"hdlr", b"\0\0\0\0\0\0\0\0camm");
    let track = mp4_box(b"trak", &mp4_box(b"mdia", &[handler, information].concat()));
    let upload = [mp4_box(b"ftyp", b"isom\0\0\0\0"), mp4_box(b"moov", &track)].concat();
    let outcome = inspect_bytes(&upload);
    assert_eq!(outcome.stored.len(), upload.len());
}

#[test]
fn an_audio_track_alone_is_audio() {
    let movie = [mp4_box(b"mvhd", &words(&[0, 0, 0, 1000, 1500, 0, 0])), mp4_track(b"soun", false, 0, 0)];
    let upload = [mp4_box(b"ftyp", b"isom\0\0\0\0"), mp4_box(b"moov", &movie.concat())].concat();
    let inspected = inspect_bytes(&upload).inspected;
    assert_eq!((inspected.content_type.as_str(), inspected.kind), ("audio/mp4", Kind::Audio));
    assert_eq!(inspected.duration_ms, Some(1500));
    assert_eq!(inspected.width, None);
}

/// A HEIC file with EXIF metadata in the file, XMP metadata in an `idat` box, and a picture.
pub(super) fn heic() -> Vec<u8> {
    let start = mp4_box(b"ftyp", b"heic\0\0\0\0mif1heic");
    let entry = |id: u8, kind: &[u8; 4]| mp4_box(b"infe", &[&[2, 0, 0, 0, 0, id, 0, 0], &kind[..], b"\0"].concat());
    let items = [&[0; 4][..], &[0, 3], &entry(1, b"hvc1"), &entry(2, b"Exif"), &entry(3, b"mime")].concat();
    let place = |id: u8, method: u8, at: u32, length: usize| {
        [&[0, id, 0, method, 0, 0, 0, 1][..], &at.to_be_bytes(), &(length as u32).to_be_bytes()].concat()
    };
    let meta = |at: u32| {
        let places = [
            &[1, 0, 0, 0, 0x44, 0, 0, 3][..],
            &place(1, 0, at, 6),
            &place(2, 0, at + 6, PLACE.len()),
            &place(3, 1, 0, PLACE.len()),
        ];
        let boxes = [mp4_box(b"iinf", &items), mp4_box(b"iloc", &places.concat()), mp4_box(b"idat", PLACE)];
        mp4_box(b"meta", &[vec![0; 4], boxes.concat()].concat())
    };
    let at = start.len() + meta(0).len() + 8;
    [start, meta(at as u32), mp4_box(b"mdat", &[b"pixels", PLACE].concat())].concat()
}

#[test]
fn a_heic_loses_its_metadata_and_keeps_its_picture() {
    let upload = heic();
    let outcome = inspect_bytes(&upload);
    assert_eq!((outcome.inspected.content_type.as_str(), outcome.inspected.kind), ("image/heic", Kind::Other));
    assert!(outcome.inspected.cleaned);
    assert!(!contains(&outcome.stored, PLACE));
    // A decoder finds EXIF metadata without entries.
    assert!(contains(&outcome.stored, b"pixels\0\0\0\0MM\0\x2A\0\0\0\x08\0\0\0\0\0\0"));
    assert_eq!(outcome.stored.len(), upload.len());
}

#[test]
fn a_heic_whose_list_of_places_has_extents_without_numbers() {
    let entry = mp4_box(b"infe", b"\x02\0\0\0\0\x01\0\0Exif\0");
    let items = mp4_box(b"iinf", &[&[0; 4][..], &[0, 1], &entry].concat());
    // 100,000 items with 65,535 extents each.
    let places = [&b"\x01\0\0\0\0\0\xFF\xFF"[..], &b"\0\x01\0\0\0\0\xFF\xFF".repeat(100_000)].concat();
    let meta = mp4_box(b"meta", &[vec![0; 4], items, mp4_box(b"iloc", &places)].concat());
    let start = Instant::now();
    assert!(!inspect_bytes(&[mp4_box(b"ftyp", b"heic\0\0\0\0mif1heic"), meta].concat()).inspected.cleaned);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_webm_with_and_without_a_duration() {
    let inspected = inspect_bytes(&webm(1, Some(2500.0), &[])).inspected;
    assert_eq!((inspected.width, inspected.height, inspected.duration_ms), (Some(640), Some(360), Some(2500)));
    // Recordings of browsers have no duration, and clusters of unknown size.
    let block = |at: i16| element(0xA3, &[&[0x81][..], &at.to_be_bytes(), &[0x80, 1, 2, 3]].concat());
    let cluster = |at: u32| {
        let blocks = [element(0xE7, &at.to_be_bytes()), block(0), block(950)].concat();
        [vec![0x1F, 0x43, 0xB6, 0x75, 0xFF], blocks].concat()
    };
    let inspected = inspect_bytes(&webm(2, None, &[cluster(0), cluster(1000)])).inspected;
    assert_eq!((inspected.kind, inspected.duration_ms), (Kind::Audio, Some(1950)));
}
