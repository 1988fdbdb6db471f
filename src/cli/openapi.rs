//! `posthaste openapi`.

use std::process::ExitCode;

use crate::domain::access::principal::Access;
use crate::http::server::router::openapi_json;

/// Prints the document as a secured server serves it.
pub fn run() -> Result<ExitCode, String> {
    println!("{}", openapi_json(Access::Secured).map_err(|error| error.to_string())?);
    Ok(ExitCode::SUCCESS)
}
