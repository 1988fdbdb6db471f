//! `posthaste admin`.

use std::io::Read as _;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::with_app;
use crate::config::DataOptions;
use crate::domain::access::principal;
use crate::domain::identity::audit::By;
use crate::domain::identity::passwords;
use crate::domain::identity::users::{self, Registration};

/// Bytes that are read of a password: more than one may have.
const PASSWORD_LIMIT_BYTES: u64 = 4_096;

/// What to do.
#[derive(Subcommand)]
pub enum Action {
    /// Make an account
    CreateUser {
        /// 1 to 32 of A-Z a-z 0-9 . _ -
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        #[arg(long, value_name = "NAME")]
        first_name: Option<String>,
        #[arg(long, value_name = "NAME")]
        last_name: Option<String>,
        /// Make an administrator
        #[arg(long)]
        admin: bool,
        /// Read the password from standard input; without it the account has none, and is for API keys and JWTs
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Print a code with which a user sets a new password, once, within an hour
    ResetPassword {
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Give a user a role
    SetRole {
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[arg(long, value_name = "user|admin")]
        role: Role,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Keep a user out: every session ends within a second
    Ban {
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[command(flatten)]
        data: DataOptions,
    },
    /// Let a banned user in again
    Unban {
        #[arg(long, value_name = "NAME")]
        user_name: String,
        #[command(flatten)]
        data: DataOptions,
    },
}

/// What a user may do on the whole server.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    /// What everyone may.
    User,
    /// Administration too.
    Admin,
}

/// Does it.
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
            eprintln!("{user_name} was made{}", if admin { ", and is an administrator" } else { "" });
        }
        Action::ResetPassword { user_name, data } => {
            let code =
                with_app(&data, async |app| passwords::issue(app, By::operator(app.clock.now()), &user_name).await)?;
            println!("{}", code.code);
            eprintln!(
                "PUT /api/password-resets/CODE {{\"new_password\": …}} sets a new password, once, until {}",
                code.expires_at
            );
        }
        Action::SetRole { user_name, role, data } => {
            let role = match role {
                Role::User => principal::Role::User,
                Role::Admin => principal::Role::Admin,
            };
            with_app(&data, async |app| users::set_role(app, &user_name, role, By::operator(app.clock.now())).await)?;
            eprintln!("{user_name} has the role {} now", role.as_str());
        }
        Action::Ban { user_name, data } => {
            with_app(&data, async |app| users::set_banned(app, &user_name, true, By::operator(app.clock.now())).await)?;
            eprintln!("{user_name} is banned");
        }
        Action::Unban { user_name, data } => {
            with_app(&data, async |app| {
                users::set_banned(app, &user_name, false, By::operator(app.clock.now())).await
            })?;
            eprintln!("{user_name} is not banned any more");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The password that was piped in; the line's end is not part of it.
fn read_password() -> Result<String, String> {
    let mut text = String::new();
    let read = std::io::stdin().take(PASSWORD_LIMIT_BYTES).read_to_string(&mut text);
    read.map_err(|error| format!("the password cannot be read from standard input: {error}"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err("--password-stdin: standard input holds no password".into());
    }
    Ok(password.to_owned())
}
