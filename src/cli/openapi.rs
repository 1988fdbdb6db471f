//! The command `posthaste openapi`.

use std::process::ExitCode;

use crate::domain::access::principal::Access;
use crate::http::server::router::openapi_json;

/// Prints the OpenAPI document that a server under secured access serves.
pub fn run() -> Result<ExitCode, String> {
    println!("{}", openapi_json(Access::Secured).map_err(|error| error.to_string())?);
    Ok(ExitCode::SUCCESS)
}
