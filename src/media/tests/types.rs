//! The types of files.

use super::samples::*;
use super::{Kind, inspect_bytes};

fn check(upload: &[u8], content_type: &str, kind: Kind) {
    let inspected = inspect_bytes(upload).inspected;
    assert_eq!((inspected.content_type.as_str(), inspected.kind), (content_type, kind));
}

#[test]
fn text() {
    check(b"hello", "text/plain; charset=utf-8", Kind::Other);
    check("żółć".as_bytes(), "text/plain; charset=utf-8", Kind::Other);
    check("ż".repeat(100_000).as_bytes(), "text/plain; charset=utf-8", Kind::Other);
    check(format!("a{}", "€😀".repeat(50_000)).as_bytes(), "text/plain; charset=utf-8", Kind::Other);
    check(format!("{}\0", "a".repeat(100_000)).as_bytes(), "application/octet-stream", Kind::Other);
    check(b"half a character: \xC5", "application/octet-stream", Kind::Other);
    check(&[b"a".repeat(65_535), b"\xC5a".to_vec()].concat(), "application/octet-stream", Kind::Other);
    check(b"latin 1: \xFC.", "application/octet-stream", Kind::Other);
    check(b"", "application/octet-stream", Kind::Other);
}

#[test]
fn markup_is_never_an_image() {
    check(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", Kind::Other);
    check("\u{FEFF} <?xml version='1.0'?><!-- x --><SVG/>".as_bytes(), "image/svg+xml", Kind::Other);
    check(b"\n<!DOCTYPE svg PUBLIC><svg/>", "image/svg+xml", Kind::Other);
    check(b" <!doctype HTML><p>", "text/html", Kind::Other);
    check(b"<!-- x --><script>", "text/html", Kind::Other);
    check(b"<?xml version='1.0'?><html/>", "text/html", Kind::Other);
    check(b"a < b", "text/plain; charset=utf-8", Kind::Other);
}

#[test]
fn documents_and_archives() {
    check(b"%PDF-1.7\n\xFF\0", "application/pdf", Kind::Other);
    check(b"PK\x03\x04\0\0", "application/zip", Kind::Other);
    check(b"\x1F\x8B\x08\0", "application/gzip", Kind::Other);
    check(b"\x7FELF\0\0", "application/octet-stream", Kind::Other);
}

#[test]
fn containers() {
    check(&mp4_box(b"ftyp", b"isom\0\0\0\0"), "video/mp4", Kind::Video);
    check(&mp4_box(b"ftyp", b"qt  \0\0\0\0"), "video/quicktime", Kind::Video);
    check(&mp4_box(b"ftyp", b"3gp5\0\0\0\0"), "video/3gpp", Kind::Video);
    check(&mp4_box(b"ftyp", b"M4A \0\0\0\0"), "audio/mp4", Kind::Audio);
    check(&mp4_box(b"ftyp", b"avif\0\0\0\0"), "image/avif", Kind::Other);
    check(&mp4_box(b"ftyp", b"mif1\0\0\0\0mif1avif"), "image/avif", Kind::Other);
    check(&mp4_box(b"ftyp", b"heic\0\0\0\0mif1heic"), "image/heic", Kind::Other);
    check(&webm(1, None, &[]), "video/webm", Kind::Video);
    check(&webm(2, None, &[]), "audio/webm", Kind::Audio);
    check(b"\x1A\x45\xDF\xA3\x8B\x42\x82\x88matroska", "video/x-matroska", Kind::Video);
    check(b"OggS", "application/ogg", Kind::Other);
}

#[test]
fn sound() {
    let mp3_frame = [vec![0xFF, 0xFB, 0x90, 0], vec![0; 413]].concat();
    check(&mp3_frame.repeat(3), "audio/mpeg", Kind::Audio);
    check(b"ID3\x03\0\0\0\0\0\x02ab", "audio/mpeg", Kind::Audio);
    let adts_frame = [vec![0xFF, 0xF1, 0x50, 0x80, 0x02, 0x1F, 0xFC], vec![0; 9]].concat();
    check(&adts_frame.repeat(3), "audio/aac", Kind::Audio);
    check(&[b"ID3\x03\0\0\0\0\0\x02ab".to_vec(), adts_frame].concat(), "audio/aac", Kind::Audio);
    check(b"ID3\x03\0\0\0\0\0\x02abfLaC", "audio/flac", Kind::Audio);
    check(&wav(&[0.5]), "audio/wav", Kind::Audio);
    // The byte order mark of UTF-16 looks like the start of a frame.
    check(b"\xFF\xFEh\0i\0", "application/octet-stream", Kind::Other);
}
