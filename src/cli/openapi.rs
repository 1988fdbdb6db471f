//! `posthaste openapi`.

use std::process::ExitCode;

use crate::domain::auth::Access;
use crate::http::router::openapi_json;

/// Prints the document as a secured server serves it.
pub fn run() -> Result<ExitCode, String> {
    println!("{}", openapi_json(Access::Secured).map_err(|error| error.to_string())?);
    Ok(ExitCode::SUCCESS)
}
