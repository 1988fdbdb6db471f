//! BlurHash: a string of 28 characters from which a client paints a blurred preview of an image.
//!
//! Invariant: the string follows the BlurHash specification, with 4 horizontal and 3 vertical components.

use std::f32::consts::PI;

use image::RgbImage;

const COMPONENTS_X: u32 = 4;
const COMPONENTS_Y: u32 = 3;

const DIGITS: &[u8; 83] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~";

/// Encodes a picture. The time is proportional to its pixels, and a picture of 32 by 32 pixels gives the same string as a large
/// one, except for rounding.
pub(super) fn encode(pixels: &RgbImage) -> String {
    let factors: Vec<[f32; 3]> = (0..COMPONENTS_Y)
        .flat_map(|y| (0..COMPONENTS_X).map(move |x| (x, y)))
        .map(|(x, y)| factor(pixels, x, y))
        .collect();
    let (mean, waves) = factors.split_first().map_or(([0.0; 3], [].as_slice()), |(mean, waves)| (*mean, waves));
    let largest = waves.iter().flatten().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let quantised = (largest * 166.0 - 0.5).floor().clamp(0.0, 82.0);
    let scale = (quantised + 1.0) / 166.0;

    let mut hash = String::with_capacity(4 + 2 * factors.len());
    push_digits(&mut hash, (COMPONENTS_X - 1) + (COMPONENTS_Y - 1) * 9, 1);
    push_digits(&mut hash, quantised as u32, 1);
    let [red, green, blue] = mean.map(to_srgb);
    push_digits(&mut hash, red << 16 | green << 8 | blue, 4);
    for wave in waves {
        let [red, green, blue] = wave.map(|value| {
            let root = (value / scale).abs().sqrt().copysign(value);
            (root * 9.0 + 9.5).floor().clamp(0.0, 18.0) as u32
        });
        push_digits(&mut hash, (red * 19 + green) * 19 + blue, 2);
    }
    hash
}

/// The share of one cosine wave in each linear colour.
fn factor(pixels: &RgbImage, wave_x: u32, wave_y: u32) -> [f32; 3] {
    let (width, height) = (pixels.width() as f32, pixels.height() as f32);
    let mut sum = [0.0; 3];
    for (x, y, pixel) in pixels.enumerate_pixels() {
        let basis = (PI * wave_x as f32 * x as f32 / width).cos() * (PI * wave_y as f32 * y as f32 / height).cos();
        for (sum, value) in sum.iter_mut().zip(pixel.0) {
            *sum += basis * to_linear(value);
        }
    }
    let normalisation = if wave_x == 0 && wave_y == 0 { 1.0 } else { 2.0 };
    sum.map(|sum| sum * normalisation / (width * height))
}

fn to_linear(value: u8) -> f32 {
    let value = f32::from(value) / 255.0;
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

fn to_srgb(value: f32) -> u32 {
    let value = value.clamp(0.0, 1.0);
    let encoded = if value <= 0.003_130_8 { value * 12.92 } else { 1.055 * value.powf(1.0 / 2.4) - 0.055 };
    (encoded * 255.0 + 0.5) as u32
}

/// Appends a number in base 83.
fn push_digits(hash: &mut String, number: u32, digits: u32) {
    for position in (0..digits).rev() {
        let digit = number / 83_u32.pow(position) % 83;
        hash.extend(DIGITS.get(digit as usize).map(|digit| char::from(*digit)));
    }
}
