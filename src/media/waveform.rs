//! The loudness of a recording, in 64 equal parts.
//!
//! Invariant: memory does not grow with the length of a recording.

/// Number of parts.
pub(super) const PARTS: usize = 64;

/// Maximum number of windows that are kept. When they are used up, each two of them are merged.
const MAX_WINDOWS: usize = 8_192;

/// Frames (samples of all channels at one time) in a window at the start.
const FIRST_WINDOW_FRAMES: u64 = 64;

/// A recording whose peaks are below this share of the full scale is silent: 60 dB below it.
const SILENCE: f32 = 0.001;

/// The peaks of a recording of unknown length.
pub(super) struct Envelope {
    windows: Vec<f32>,
    window_frames: u64,
    /// The window that is not complete.
    frames: u64,
    peak: f32,
}

impl Envelope {
    pub(super) fn new() -> Self {
        Self { windows: Vec::new(), window_frames: FIRST_WINDOW_FRAMES, frames: 0, peak: 0.0 }
    }

    /// Adds samples whose full scale is 1, with the channels of one frame side by side.
    pub(super) fn add(&mut self, samples: &[f32], channels: usize) {
        for frame in samples.chunks_exact(channels.max(1)) {
            // NaN is never larger.
            self.peak = frame.iter().fold(self.peak, |peak, sample| peak.max(sample.abs().min(1.0)));
            self.frames += 1;
            if self.frames == self.window_frames {
                self.complete_window();
            }
        }
    }

    fn complete_window(&mut self) {
        self.windows.push(self.peak);
        (self.frames, self.peak) = (0, 0.0);
        if self.windows.len() == MAX_WINDOWS {
            self.windows = self.windows.chunks(2).map(|pair| pair.iter().copied().fold(0.0, f32::max)).collect();
            self.window_frames *= 2;
        }
    }

    /// The parts, scaled so that the loudest has 255. All parts of a silent recording are 0. Returns `None` if nothing was added.
    pub(super) fn into_parts(mut self) -> Option<[u8; PARTS]> {
        if self.frames > 0 {
            self.complete_window();
        }
        let count = self.windows.len();
        let loudest = self.windows.iter().copied().fold(0.0, f32::max);
        let mut parts = [0; PARTS];
        if count == 0 {
            return None;
        }
        if loudest < SILENCE {
            return Some(parts);
        }
        for (index, part) in parts.iter_mut().enumerate() {
            let start = index * count / PARTS;
            let end = ((index + 1) * count / PARTS).max(start + 1);
            let peak = self.windows.get(start..end).unwrap_or_default().iter().copied().fold(0.0, f32::max);
            // From 0 to 255.
            *part = (peak / loudest * 255.0).round() as u8;
        }
        Some(parts)
    }
}
