//! Builders of small files of each format.

use std::io::Cursor;

use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{Delay, DynamicImage, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

/// Text that stands for a place in metadata.
pub(super) const PLACE: &[u8] = b"N 52.5163 E 13.3777";

/// A picture with a different colour in each quarter: red, green, blue and white, row by row.
pub(super) fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| match (x * 2 < width, y * 2 < height) {
        (true, true) => Rgb([255, 0, 0]),
        (false, true) => Rgb([0, 255, 0]),
        (true, false) => Rgb([0, 0, 255]),
        (false, false) => Rgb([255, 255, 255]),
    })
}

/// A picture that compresses like a photo.
pub(super) fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let noise = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)) >> 13 & 15;
        Rgb([(x * 200 / width + noise) as u8, (y * 200 / height + noise) as u8, ((x + y) % 200 + noise) as u8])
    })
}

pub(super) fn encode(pixels: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    pixels.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(super) fn jpeg(pixels: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(pixels).unwrap();
    bytes
}

pub(super) fn decoded(bytes: &[u8]) -> DynamicImage {
    image::load_from_memory(bytes).unwrap()
}

/// EXIF metadata with an orientation and a place.
pub(super) fn exif(orientation: u16) -> Vec<u8> {
    let mut bytes = b"MM\0\x2A\0\0\0\x08\0\x02".to_vec();
    bytes.extend(b"\x01\x12\0\x03\0\0\0\x01");
    bytes.extend(orientation.to_be_bytes());
    bytes.extend([0, 0]);
    // ImageDescription, behind the directory.
    bytes.extend(b"\x01\x0E\0\x02");
    bytes.extend((PLACE.len() as u32).to_be_bytes());
    bytes.extend(38_u32.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(PLACE);
    bytes
}

pub(super) fn jpeg_segment(marker: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF, marker];
    bytes.extend((payload.len() as u16 + 2).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Inserts bytes behind the start marker of a JPEG file.
pub(super) fn jpeg_with(jpeg: &[u8], segments: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = jpeg[..2].to_vec();
    segments.iter().for_each(|segment| bytes.extend(segment));
    bytes.extend(&jpeg[2..]);
    bytes
}

pub(super) fn jpeg_with_exif(jpeg: &[u8], orientation: u16) -> Vec<u8> {
    let payload = [b"Exif\0\0".to_vec(), exif(orientation)].concat();
    jpeg_with(jpeg, &[jpeg_segment(0xE1, &payload)])
}

pub(super) fn png_chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u32).to_be_bytes().to_vec();
    bytes.extend(name);
    bytes.extend(content);
    bytes.extend(crc32fast::hash(&[name, content].concat()).to_be_bytes());
    bytes
}

/// Inserts chunks behind the header of a PNG file.
pub(super) fn png_with(png: &[u8], chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = png[..33].to_vec();
    chunks.iter().for_each(|chunk| bytes.extend(chunk));
    bytes.extend(&png[33..]);
    bytes
}

/// The content of the chunks with pixels.
fn png_pixels(png: &[u8]) -> Vec<u8> {
    let (mut at, mut pixels) = (8, Vec::new());
    while at < png.len() {
        let size = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        if &png[at + 4..at + 8] == b"IDAT" {
            pixels.extend(&png[at + 8..at + 8 + size]);
        }
        at += size + 12;
    }
    pixels
}

/// An animated PNG whose frames are shown for 100 ms.
pub(super) fn apng(frames: &[RgbImage]) -> Vec<u8> {
    let first = encode(frames[0].clone(), ImageFormat::Png);
    let mut bytes = first[..33].to_vec();
    let count = (frames.len() as u32).to_be_bytes();
    bytes.extend(png_chunk(b"acTL", &[count, [0; 4]].concat()));
    let mut sequence = 0_u32;
    for (index, frame) in frames.iter().enumerate() {
        let mut control = sequence.to_be_bytes().to_vec();
        control.extend(frame.width().to_be_bytes());
        control.extend(frame.height().to_be_bytes());
        control.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 10, 0, 0]);
        bytes.extend(png_chunk(b"fcTL", &control));
        sequence += 1;
        let pixels = png_pixels(&encode(frame.clone(), ImageFormat::Png));
        if index == 0 {
            bytes.extend(png_chunk(b"IDAT", &pixels));
        } else {
            bytes.extend(png_chunk(b"fdAT", &[sequence.to_be_bytes().to_vec(), pixels].concat()));
            sequence += 1;
        }
    }
    bytes.extend(png_chunk(b"IEND", &[]));
    bytes
}

/// An animated GIF with delays of 100 ms, 200 ms, and so on.
pub(super) fn gif(frames: &[RgbImage]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    encoder.set_repeat(image::codecs::gif::Repeat::Infinite).unwrap();
    for (index, frame) in frames.iter().enumerate() {
        let pixels = DynamicImage::from(frame.clone()).into_rgba8();
        let delay = Delay::from_numer_denom_ms(100 * (index as u32 + 1), 1);
        encoder.encode_frame(Frame::from_parts(pixels, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    bytes
}

pub(super) fn riff_chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
    bytes.extend(vec![0; content.len() % 2]);
    bytes
}

pub(super) fn riff(form: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    let content = [form.to_vec(), chunks.concat()].concat();
    riff_chunk(b"RIFF", &content)
}

fn three_bytes(number: u32) -> [u8; 3] {
    let [a, b, c, _] = number.to_le_bytes();
    [a, b, c]
}

/// The extended header of a WebP file.
pub(super) fn webp_header(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let content = [&[flags, 0, 0, 0], &three_bytes(width - 1)[..], &three_bytes(height - 1)].concat();
    riff_chunk(b"VP8X", &content)
}

/// The chunk with the pixels of a WebP file without extended header.
pub(super) fn webp_pixels(pixels: &RgbImage) -> Vec<u8> {
    encode(pixels.clone(), ImageFormat::WebP)[12..].to_vec()
}

/// A WebP file with EXIF metadata, XMP metadata and an unknown chunk.
pub(super) fn webp_with_metadata(pixels: &RgbImage, orientation: u16) -> Vec<u8> {
    let chunks = [
        webp_header(0x0C, pixels.width(), pixels.height()),
        webp_pixels(pixels),
        riff_chunk(b"EXIF", &exif(orientation)),
        riff_chunk(b"XMP ", PLACE),
        riff_chunk(b"junk", PLACE),
    ];
    riff(b"WEBP", &chunks)
}

/// An animated WebP file with delays of 100 ms, 200 ms, and so on, and metadata in the file and in the frames.
pub(super) fn animated_webp(frames: &[RgbImage]) -> Vec<u8> {
    let (width, height) = frames[0].dimensions();
    let mut chunks = vec![webp_header(0x0E, width, height), riff_chunk(b"ANIM", &[0; 6])];
    for (index, frame) in frames.iter().enumerate() {
        let mut content = vec![0; 6];
        content.extend(three_bytes(width - 1));
        content.extend(three_bytes(height - 1));
        content.extend(three_bytes(100 * (index as u32 + 1)));
        content.push(2);
        content.extend(webp_pixels(frame));
        content.extend(riff_chunk(b"note", PLACE));
        chunks.push(riff_chunk(b"ANMF", &content));
    }
    chunks.push(riff_chunk(b"EXIF", &exif(6)));
    riff(b"WEBP", &chunks)
}

/// A picture whose left half is transparent, with invisible black, and whose right half is red.
pub(super) fn half_transparent(width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, _| if x * 2 < width { Rgba([0, 0, 0, 0]) } else { Rgba([255, 0, 0, 255]) })
}

/// A box of an MP4 file.
pub(super) fn mp4_box(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(content);
    bytes
}

/// Numbers of four bytes.
pub(super) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// A track of 640 by 360 pixels with one sample.
pub(super) fn mp4_track(handler: &[u8; 4], turned: bool, sample_at: u32, sample_bytes: u32) -> Vec<u8> {
    let one = 0x1_0000;
    let matrix = if turned {
        [0, one, 0, 0u32.wrapping_sub(one), 0, 0, 0, 0, 1 << 30]
    } else {
        [one, 0, 0, 0, one, 0, 0, 0, 1 << 30]
    };
    let mut header = words(&[0, 0, 0, 1, 0, 1000, 0, 0, 0, 0]);
    header.extend(words(&matrix));
    header.extend(words(&[640 << 16, 360 << 16]));
    let table = [
        mp4_box(b"stsc", &words(&[0, 1, 1, 1, 1])),
        mp4_box(b"stsz", &words(&[0, 0, 1, sample_bytes])),
        mp4_box(b"stco", &words(&[0, 1, sample_at])),
    ];
    let information = mp4_box(b"minf", &mp4_box(b"stbl", &table.concat()));
    let handler = mp4_box(b"hdlr", &[&[0; 8], &handler[..], &[0; 13]].concat());
    let media = mp4_box(b"mdia", &[handler, information].concat());
    mp4_box(b"trak", &[mp4_box(b"tkhd", &header), media].concat())
}

/// A video of 2.5 s with a place in five places. The samples are at the start.
pub(super) fn mp4(turned: bool) -> Vec<u8> {
    let start = mp4_box(b"ftyp", b"isom\0\0\0\0isommp42");
    let samples = mp4_box(b"mdat", &[b"pixels", PLACE].concat());
    let at = start.len() as u32 + 8;
    let movie = [
        mp4_box(b"mvhd", &words(&[0, 0, 0, 1000, 2500, 0, 0])),
        mp4_track(b"vide", turned, at, 6),
        mp4_track(b"camm", false, at + 6, PLACE.len() as u32),
        mp4_box(b"udta", &mp4_box(b"\xA9xyz", PLACE)),
        mp4_box(b"meta", PLACE),
    ];
    let uuid =
        mp4_box(b"uuid", &[&b"\xBE\x7A\xCF\xCB\x97\xA9\x42\xE8\x9C\x71\x99\x94\x91\xE3\xAF\xAC"[..], PLACE].concat());
    [start, samples, mp4_box(b"moov", &movie.concat()), uuid].concat()
}

/// A mono recording of 16 bits at 8 kHz, from the volume of each eighth of a second.
pub(super) fn wav(volumes: &[f32]) -> Vec<u8> {
    let samples = volumes
        .iter()
        .flat_map(|volume| (0..1000).map(move |index| ((index as f32 * 0.7).sin() * volume * 32_000.0) as i16));
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let mut format = Vec::new();
    format.extend(1_u16.to_le_bytes());
    format.extend(1_u16.to_le_bytes());
    format.extend(8_000_u32.to_le_bytes());
    format.extend(16_000_u32.to_le_bytes());
    format.extend(2_u16.to_le_bytes());
    format.extend(16_u16.to_le_bytes());
    riff(b"WAVE", &[riff_chunk(b"fmt ", &format), riff_chunk(b"data", &data)])
}

/// A page of an Ogg file with one packet.
pub(super) fn ogg_page(flags: u8, timestamp: u64, packet: &[u8]) -> Vec<u8> {
    let mut bytes = b"OggS\0".to_vec();
    bytes.push(flags);
    bytes.extend(timestamp.to_le_bytes());
    bytes.extend(7_u32.to_le_bytes());
    bytes.extend([0; 8]);
    assert!(packet.len() < 255);
    bytes.extend([1, packet.len() as u8]);
    bytes.extend(packet);
    bytes
}

/// An element of a Matroska file. The id includes the bits that mark its length.
pub(super) fn element(id: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = id.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    bytes.extend((1_u64 << 56 | content.len() as u64).to_be_bytes());
    bytes.extend(content);
    bytes
}

/// The header of a WebM file, and a track of a type: 1 is video, 2 is audio.
pub(super) fn webm(track_type: u8, duration_ms: Option<f64>, clusters: &[Vec<u8>]) -> Vec<u8> {
    let head = element(0x1A45_DFA3, &element(0x4282, b"webm"));
    let mut info = element(0x2A_D7B1, &1_000_000_u32.to_be_bytes());
    if let Some(duration_ms) = duration_ms {
        info.extend(element(0x4489, &duration_ms.to_be_bytes()));
    }
    let size = [element(0xB0, &640_u16.to_be_bytes()), element(0xBA, &360_u16.to_be_bytes())].concat();
    let track = [element(0x83, &[track_type]), element(0xE0, &size)].concat();
    let segment = [element(0x1549_A966, &info), element(0x1654_AE6B, &element(0xAE, &track)), clusters.concat()];
    [head, element(0x1853_8067, &segment.concat())].concat()
}
