//! Writing to standard output and standard error.
//!
//! Invariant: a closed pipe or a full disk is an error or is ignored, never a panic, as it would be with `println!`.

use std::io::{self, ErrorKind, Write};

/// Writes a text to standard output. If the reader has closed the pipe, as `head` does, the rest is not wanted, and that is no
/// error.
///
/// # Errors
/// A sentence for the operator.
pub fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| failed(&error)),
    }
}

/// The sentence for a failed write to standard output.
pub fn failed(error: &io::Error) -> String {
    format!("standard output cannot be written: {error}")
}

/// Writes a line to standard error. If that fails, the line is lost.
pub fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
