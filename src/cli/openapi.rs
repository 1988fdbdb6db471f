//! The command `posthaste openapi`.

use std::process::ExitCode;

use super::output;
use crate::domain::access::principal::Access;
use crate::http::server::router::openapi_json;

/// Prints the OpenAPI document that a server under secured access serves.
pub fn run() -> Result<ExitCode, String> {
    let document = openapi_json(Access::Secured).map_err(|error| error.to_string())?;
    output::print(&format!("{document}\n"))?;
    Ok(ExitCode::SUCCESS)
}
