//! The command `posthaste admin`: accounts.

use std::io::Read as _;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::with_app;
use crate::config::DataOptions;
use crate::domain::access::principal;
use crate::domain::identity::audit::By;
use crate::domain::identity::passwords;
use crate::domain::identity::users::{self, Registration};
use crate::domain::people::bans;

/// Maximum number of bytes that are read as a password. It is larger than any valid password.
const PASSWORD_LIMIT_BYTES: u64 = 4_096;

/// The subcommands.
#[derive(Subcommand)]
pub enum Action {
    /// Create an account
    CreateUser {
        /// 1 to 32 characters: A-Z a-z 0-9 . _ -
        #[arg(long, value_name = "NAME")]
        user_name: String,
        /// Email address
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// First name
        #[arg(long, value_name = "NAME")]
        first_name: Option<String>,
        /// Last name
        #[arg(long, value_name = "NAME")]
        last_name: Option<String>,
        /// Give the account the role admin
        #[arg(long)]
        admin: bool,
        /// Read the password from standard input. Without this option the account has no password and can only be used with
        /// API keys and JWTs
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Print a code that sets a new password. It is valid once, for one hour
    ResetPassword {
        /// Name of the user
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Set the role of a user
    SetRole {
        /// Name of the user
        #[arg(long, value_name = "NAME")]
        user_name: String,
        /// Role on the whole server
        #[arg(long, value_name = "user|admin")]
        role: Role,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Ban a user. All their sessions end within a second
    Ban {
        /// Name of the user
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Lift the ban of a user
    Unban {
        /// Name of the user
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[command(flatten)]
        data: DataOptions,
    },
}

/// The role of a user on the whole server.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    /// A user without administrative rights.
    User,
    /// An administrator.
    Admin,
}

/// Runs the subcommand.
pub fn run(action: Action) -> Result<ExitCode, String> {
    match action {
        Action::CreateUser { user_name, email, first_name, last_name, admin, password_stdin, data } => {
            let password = if password_stdin { Some(read_password()?) } else { None };
            let registration = Registration {
                user_name: user_name.clone(),
                first_name: first_name.unwrap_or_default(),
                last_name: last_name.unwrap_or_default(),
                email,
                password,
                admin,
            };
            with_app(&data, async |app| users::create(app, registration).await)?;
            eprintln!("Created {user_name}{}", if admin { " (administrator)" } else { "" });
        }
        Action::ResetPassword { user_name, data } => {
            let code =
                with_app(&data, async |app| passwords::issue(app, By::operator(app.clock.now()), &user_name).await)?;
            println!("{}", code.code);
            eprintln!(
                "To set a new password, send PUT /api/password-resets/CODE {{\"new_password\": …}}. The code is valid once, until {}",
                code.expires_at
            );
        }
        Action::SetRole { user_name, role, data } => {
            let role = match role {
                Role::User => principal::Role::User,
                Role::Admin => principal::Role::Admin,
            };
            with_app(&data, async |app| users::set_role(app, &user_name, role, By::operator(app.clock.now())).await)?;
            eprintln!("Set the role of {user_name} to {}", role.as_str());
        }
        Action::Ban { user_name, data } => {
            with_app(&data, async |app| bans::set_banned(app, &user_name, true, By::operator(app.clock.now())).await)?;
            eprintln!("Banned {user_name}");
        }
        Action::Unban { user_name, data } => {
            with_app(&data, async |app| bans::set_banned(app, &user_name, false, By::operator(app.clock.now())).await)?;
            eprintln!("Unbanned {user_name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the password from standard input, without the end of the line.
fn read_password() -> Result<String, String> {
    let mut text = String::new();
    let read = std::io::stdin().take(PASSWORD_LIMIT_BYTES).read_to_string(&mut text);
    read.map_err(|error| format!("the password cannot be read from standard input: {error}"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err("--password-stdin: standard input contains no password".into());
    }
    Ok(password.to_owned())
}
