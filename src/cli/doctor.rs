use crate::config::DataOptions;
use std::process::ExitCode;
pub fn run(_data: &DataOptions) -> Result<ExitCode, String> {
    Err("later".into())
}
