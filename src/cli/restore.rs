use crate::config::DataOptions;
use std::process::ExitCode;
pub fn run(_file: &std::path::Path, _data: &DataOptions) -> Result<ExitCode, String> {
    Err("later".into())
}
