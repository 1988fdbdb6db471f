//! Decoding the first frame of an image, and encoding an image that was turned upright.
//!
//! Invariant: the memory of a decoder is limited by the limits of the caller.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader};

use super::images::{Outline, damaged};
use super::{Limits, Refusal};

/// JPEG quality, from 1 to 100, of a photo that was turned.
const TURNED_QUALITY: u8 = 90;

/// Bytes of a pixel with four channels of 16 bits.
const MAX_BYTES_PER_PIXEL: u64 = 8;

/// Memory that a decoder may use besides that for the pixels: tables, rows, a colour profile.
const DECODER_OVERHEAD_BYTES: u64 = 16 * 1024 * 1024;

/// Decoded pixels.
pub(super) struct Picture {
    pub(super) pixels: DynamicImage,
    /// The ICC profile of the pixels, if they have one.
    pub(super) colour_profile: Option<Vec<u8>>,
}

impl Picture {
    /// Applies an EXIF orientation from 1 to 8.
    pub(super) fn turn(&mut self, orientation: u8) {
        if let Some(orientation) = Orientation::from_exif(orientation) {
            self.pixels.apply_orientation(orientation);
        }
    }

    /// The profile, if it describes pixels with the channels that these have. Decoding converts CMYK into RGB, and then the
    /// profile of the file describes other colours.
    pub(super) fn fitting_profile(&self) -> Option<&[u8]> {
        let profile = self.colour_profile.as_deref()?;
        // ICC.1, 7.2.6: the colour space of the data, in the header.
        let expected: &[u8] = if self.pixels.color().has_color() { b"RGB " } else { b"GRAY" };
        (profile.get(16..20) == Some(expected)).then_some(profile)
    }
}

/// Decodes the first frame.
pub(super) fn decode(path: &Path, format: ImageFormat, outline: &Outline, limits: &Limits) -> Result<Picture, Refusal> {
    let max_bytes = limits.max_pixels.saturating_mul(MAX_BYTES_PER_PIXEL).saturating_add(DECODER_OVERHEAD_BYTES);
    let mut decoder_limits = image::Limits::no_limits();
    decoder_limits.max_image_width = Some(limits.max_side);
    decoder_limits.max_image_height = Some(limits.max_side);
    decoder_limits.max_alloc = Some(max_bytes);
    let mut reader = ImageReader::with_format(BufReader::new(File::open(path)?), format);
    reader.limits(decoder_limits);
    let mut decoder = reader.into_decoder().map_err(refusal)?;
    if decoder.dimensions() != (outline.width, outline.height) {
        return Err(damaged("the image has two different sizes"));
    }
    if decoder.total_bytes() > max_bytes {
        return Err(Refusal::TooLarge("decoding the image takes too much memory".to_owned()));
    }
    let colour_profile = decoder.icc_profile().map_err(refusal)?;
    let pixels = DynamicImage::from_decoder(decoder).map_err(refusal)?;
    Ok(Picture { pixels, colour_profile })
}

/// Writes a picture in the format of its source. JPEG loses a little quality; the others lose nothing.
pub(super) fn encode_upright(picture: &Picture, format: ImageFormat, target: &Path) -> Result<(), Refusal> {
    let mut file = BufWriter::new(File::create(target)?);
    let profile = picture.fitting_profile();
    match format {
        ImageFormat::Jpeg => write(picture, JpegEncoder::new_with_quality(&mut file, TURNED_QUALITY), profile),
        ImageFormat::WebP => write(picture, WebPEncoder::new_lossless(&mut file), profile),
        _ => {
            let encoder = PngEncoder::new_with_quality(&mut file, CompressionType::Default, FilterType::Adaptive);
            write(picture, encoder, profile)
        }
    }?;
    file.flush()?;
    Ok(())
}

/// Encodes a picture with a colour profile.
pub(super) fn write(
    picture: &Picture,
    mut encoder: impl ImageEncoder,
    colour_profile: Option<&[u8]>,
) -> Result<(), Refusal> {
    if let Some(profile) = colour_profile {
        encoder.set_icc_profile(profile.to_vec()).map_err(|error| refusal(ImageError::Unsupported(error)))?;
    }
    picture.pixels.write_with_encoder(encoder).map_err(refusal)
}

/// An error of a decoder or an encoder.
fn refusal(error: ImageError) -> Refusal {
    match error {
        ImageError::IoError(error) => error.into(),
        ImageError::Limits(error) => Refusal::TooLarge(format!("the image takes too much memory: {error}")),
        error => Refusal::Damaged(format!("the image cannot be decoded: {error}")),
    }
}
