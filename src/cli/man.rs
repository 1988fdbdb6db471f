//! The command `posthaste man`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use super::{CommandLine, output};

/// Where the pages go.
#[derive(Args)]
pub struct Options {
    /// Write a page for each command into this folder, instead of printing the page of posthaste
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// Prints the manual page, or writes all pages into a folder.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    // The date and the commit of the build would change the page with each build.
    let command = CommandLine::command().version(env!("CARGO_PKG_VERSION"));
    match &options.output_dir {
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page).map_err(|error| format!("the page cannot be made: {error}"))?;
            output::print(&String::from_utf8_lossy(&page))?;
        }
        Some(folder) => {
            let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
            written.map_err(|error| format!("{} cannot be written: {error}", folder.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
