//! Duration and waveform of recordings.

use super::samples::*;
use super::{Kind, inspect_bytes};

#[test]
fn a_wave_file() {
    let volumes: Vec<f32> = (0..64).map(|part| if part < 32 { 0.25 } else { 0.5 }).collect();
    let inspected = inspect_bytes(&wav(&volumes)).inspected;
    assert_eq!((inspected.kind, inspected.duration_ms), (Kind::Audio, Some(8_000)));
    let waveform = inspected.waveform.unwrap();
    assert!(waveform[..31].iter().all(|part| part.abs_diff(127) < 3), "{waveform:?}");
    assert!(waveform[33..].iter().all(|part| *part > 252), "{waveform:?}");
    assert!(!inspected.cleaned);
}

#[test]
fn a_silent_recording() {
    let inspected = inspect_bytes(&wav(&[0.0; 4])).inspected;
    assert_eq!((inspected.duration_ms, inspected.waveform), (Some(500), Some([0; 64])));
}

#[test]
fn a_short_recording_has_all_parts() {
    // 20 samples.
    let whole = wav(&[0.5]);
    let upload = [&whole[..40], &40_u32.to_le_bytes(), &whole[44..84]].concat();
    let inspected = inspect_bytes(&upload).inspected;
    assert_eq!(inspected.waveform, Some([255; 64]));
    assert_eq!(inspected.duration_ms, Some(3));
}

#[test]
fn opus_in_ogg() {
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend(312_u16.to_le_bytes());
    head.extend(48_000_u32.to_le_bytes());
    head.extend([0; 3]);
    let pages = [
        ogg_page(2, 0, &head),
        ogg_page(0, 0, b"OpusTags"),
        ogg_page(0, 48_000, &[1; 200]),
        ogg_page(4, 96_312, &[1; 200]),
        ogg_page(0, u64::MAX, &[1; 200]),
    ];
    let inspected = inspect_bytes(&pages.concat()).inspected;
    assert_eq!((inspected.content_type.as_str(), inspected.kind), ("audio/ogg", Kind::Audio));
    assert_eq!((inspected.duration_ms, inspected.waveform), (Some(2_000), None));
}

#[test]
fn theora_in_ogg() {
    let packet = [b"\x80theora\x03\x02\x01\0\x28\0\x17", &[0, 2, 0x80, 0, 1, 0x68][..]].concat();
    let inspected = inspect_bytes(&ogg_page(2, 0, &packet)).inspected;
    assert_eq!((inspected.content_type.as_str(), inspected.kind), ("video/ogg", Kind::Video));
    assert_eq!((inspected.width, inspected.height), (Some(640), Some(360)));
}

#[test]
fn damaged_sound_has_no_measures() {
    for upload in
        [b"fLaC\0\0".to_vec(), b"RIFF\xFF\xFF\xFF\xFFWAVEfmt ".to_vec(), b"ID3\x04\0\0\x7F\x7F\x7F\x7F".to_vec()]
    {
        let inspected = inspect_bytes(&upload).inspected;
        assert_eq!((inspected.kind, inspected.duration_ms, inspected.waveform), (Kind::Audio, None, None));
    }
}
