//! The command `posthaste man`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::{CommandLine, output};

/// Where the pages go.
#[derive(Args)]
pub struct Options {
    /// Write a page for each command into this folder, instead of printing the page of posthaste
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// Adds the variable of each option to its description, because the library leaves variables out.
fn with_variables(command: Command) -> Command {
    let command = command.mut_args(|option| {
        let Some(variable) = option.get_env().map(|name| name.to_string_lossy().into_owned()) else { return option };
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        option.help(format!("{help} [variable: {variable}]"))
    });
    command.mut_subcommands(with_variables)
}

/// Prints the manual page, or writes all pages into a folder.
pub fn run(options: &Options) -> Result<ExitCode, String> {
    // The date and the commit of the build would change the page with each build.
    let command = with_variables(CommandLine::command()).version(env!("CARGO_PKG_VERSION"));
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
