//! The command `posthaste admin`: accounts.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::{IfMissing, describe, output, with_app};
use crate::base::error::Error;
use crate::base::time::{Clock, Timestamp};
use crate::config::DataOptions;
use crate::domain::access::principal;
use crate::domain::identity::audit::By;
use crate::domain::identity::passwords;
use crate::domain::identity::users::{self, Registration, User};
use crate::domain::people::bans;

/// Maximum number of bytes that are read as a password. It is larger than any valid password.
const PASSWORD_LIMIT_BYTES: u64 = 4_096;

/// The subcommands.
#[derive(Subcommand)]
pub enum Action {
    /// Create an account. If there is no database yet, it is created
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
    /// List all accounts, with their roles and bans
    ListUsers {
        /// Print a JSON array, for programs
        #[arg(long)]
        json: bool,
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
            let has_password = password.is_some();
            let registration = Registration {
                user_name: user_name.clone(),
                first_name: first_name.unwrap_or_default(),
                last_name: last_name.unwrap_or_default(),
                email,
                password,
                admin,
            };
            // A refused account must not leave a new and empty database behind.
            if let Err(Error::Invalid(errors)) = registration.clone().validate(Clock::System.now()) {
                return Err(describe(&errors));
            }
            with_app(&data, IfMissing::Create, async |app| users::create(app, registration).await)?;
            output::note(&format!("Created {user_name}{}", if admin { " (administrator)" } else { "" }));
            if !has_password {
                output::note(&format!(
                    "The account has no password, so nobody can log in with it. posthaste admin reset-password --user-name \
                     {user_name} prints a code that sets one"
                ));
            }
        }
        Action::ListUsers { json, data } => {
            let users = with_app(&data, IfMissing::Fail, users::list_all_for_operator)?;
            output::print(&if json { as_json(&users)? } else { as_table(&users) })?;
        }
        Action::ResetPassword { user_name, data } => {
            let code = with_app(&data, IfMissing::Fail, async |app| {
                passwords::issue(app, By::operator(app.clock.now()), &user_name).await
            })?;
            output::print(&format!("{}\n", code.code))?;
            output::note(&format!(
                "To set a new password, send PUT /api/password-resets/CODE {{\"new_password\": …}}. The code is valid once, until {}",
                code.expires_at
            ));
        }
        Action::SetRole { user_name, role, data } => {
            let role = match role {
                Role::User => principal::Role::User,
                Role::Admin => principal::Role::Admin,
            };
            with_app(&data, IfMissing::Fail, async |app| {
                users::set_role(app, &user_name, role, By::operator(app.clock.now())).await
            })?;
            output::note(&format!("Set the role of {user_name} to {}", role.as_str()));
        }
        Action::Ban { user_name, data } => {
            with_app(&data, IfMissing::Fail, async |app| {
                bans::set_banned(app, &user_name, true, By::operator(app.clock.now())).await
            })?;
            output::note(&format!("Banned {user_name}"));
        }
        Action::Unban { user_name, data } => {
            with_app(&data, IfMissing::Fail, async |app| {
                bans::set_banned(app, &user_name, false, By::operator(app.clock.now())).await
            })?;
            output::note(&format!("Unbanned {user_name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(users: &[User]) -> Result<String, String> {
    let list: Vec<_> = users
        .iter()
        .map(|user| {
            serde_json::json!({
                "id": user.id.0,
                "user_name": user.user_name,
                "first_name": user.first_name,
                "last_name": user.last_name,
                "email": user.email,
                "role": user.role.as_str(),
                "is_bot": user.is_bot,
                "mfa": user.mfa,
                "created_at": user.created_at.to_string(),
                "banned_at": user.banned_at.map(|at| at.to_string()),
            })
        })
        .collect();
    serde_json::to_string_pretty(&list).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// A table with a line for each user. Columns are as wide as their longest entry.
fn as_table(users: &[User]) -> String {
    let head = ["ID", "USER NAME", "ROLE", "BANNED SINCE", "CREATED", "EMAIL"].map(str::to_owned);
    let rows = users.iter().map(|user| {
        let role = if user.is_bot { "bot" } else { user.role.as_str() };
        [
            user.id.0.to_string(),
            // A name of an upgraded database may hold characters that a terminal interprets.
            user.user_name.escape_debug().to_string(),
            role.to_owned(),
            user.banned_at.map_or_else(|| "-".to_owned(), date),
            date(user.created_at),
            user.email.as_deref().unwrap_or("-").escape_debug().to_string(),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

/// The day of a time, in UTC.
fn date(at: Timestamp) -> String {
    at.to_string().chars().take("2027-01-31".len()).collect()
}

/// Reads the password from standard input, without the end of the line.
fn read_password() -> Result<String, String> {
    let mut text = String::new();
    let input = std::io::stdin();
    let read = if input.is_terminal() {
        output::note("Type the password and press Enter. It is shown while you type");
        input.read_line(&mut text)
    } else {
        input.take(PASSWORD_LIMIT_BYTES).read_to_string(&mut text)
    };
    read.map_err(|error| format!("the password cannot be read from standard input: {error}"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err("--password-stdin: standard input contains no password".into());
    }
    Ok(password.to_owned())
}
