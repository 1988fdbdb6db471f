//! The command `posthaste api-key`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{IfMissing, output, with_app};
use crate::app::App;
use crate::base::ids::ApiKeyId;
use crate::base::time::Timestamp;
use crate::config::DataOptions;
use crate::domain::identity::api_keys::{self, ApiKey, NewApiKey};
use crate::domain::identity::audit::By;
use crate::domain::shared::pagination::Limit;

/// The subcommands.
#[derive(Subcommand)]
pub enum Action {
    /// Create a key and print only the key. It cannot be shown again
    Create {
        /// Name of the key, such as the program that uses it
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Scopes of the key, separated by commas: read, write, admin
        #[arg(long, value_name = "SCOPES", value_delimiter = ',', default_value = "read,write")]
        scopes: Vec<String>,
        /// Time at which the key expires, in RFC 3339, or a date: its beginning in UTC [default: never]
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        #[command(flatten)]
        data: DataOptions,
    },
    /// List all keys with their names, scopes and times, without the secrets
    List {
        #[command(flatten)]
        data: DataOptions,
    },
    /// Revoke a key. It stops working within a second
    Revoke {
        /// Number of the key, as shown by list
        id: i64,
        #[command(flatten)]
        data: DataOptions,
    },
}

/// Runs the subcommand.
pub fn run(action: Action) -> Result<ExitCode, String> {
    match action {
        Action::Create { name, scopes, expires_at, data } => {
            let expires_at = match expires_at {
                None => None,
                Some(text) => Some(
                    Timestamp::parse(&text)
                        .ok_or_else(|| format!("--expires-at {text} is neither a date such as 2027-01-31 nor a time such as 2027-01-31T08:30:00Z"))?,
                ),
            };
            let new = NewApiKey { name, scopes, expires_at };
            let key = with_app(&data, IfMissing::Fail, async |app| api_keys::create_for_operator(app, new).await)?;
            output::print(&format!("{key}\n"))?;
        }
        Action::List { data } => {
            let mut lines = String::new();
            for key in with_app(&data, IfMissing::Fail, list_all)? {
                let time = |at: Option<Timestamp>, none: &str| at.map_or(none.to_owned(), |at| at.to_string());
                lines += &format!(
                    "{}\t{}\t{}\tcreated {}\tlast used {}\texpires {}\n",
                    key.id.0,
                    key.name.escape_debug(),
                    key.scopes.replace(' ', ","),
                    key.created_at,
                    time(key.last_used_at, "never"),
                    time(key.expires_at, "never"),
                );
            }
            output::print(&lines)?;
        }
        Action::Revoke { id, data } => {
            with_app(&data, IfMissing::Fail, async |app| {
                api_keys::revoke(app, ApiKeyId(id), By::operator(app.clock.now())).await
            })?;
            output::note(&format!("Revoked key {id}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_all(app: &App) -> crate::base::error::Result<Vec<ApiKey>> {
    let mut keys = Vec::new();
    let mut cursor = None;
    loop {
        let page = api_keys::list(app, Limit::MAX, cursor.as_deref()).await?;
        keys.extend(page.entries);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(keys);
        }
    }
}
