//! The example users and messages of `--demo`.
//!
//! Invariant: they are written only into a database without users, in one transaction.

use crate::app::App;
use crate::base::error::Result;
use crate::base::time::Clock;
use crate::domain::identity::users::{DirectMessagesFrom, Registration};
use crate::domain::sending::directory::DirectoryEntries;
use crate::domain::sending::drafts::{Draft, Recipient, Sender};
use crate::domain::sending::send_batch::{Batch, send_all};
use crate::domain::shared::idempotency::Once;
use crate::store;

const USERS: &[(&str, &str, &str)] = &[
    ("Rebecca", "DiBari", "rdibari"),
    ("Bugs", "Bunny", "bugs"),
    ("Daffy", "Duck", "duck"),
    ("Porky", "pig", "porky"),
];

const MESSAGES: &[(&str, &str, &str)] = &[
    ("rdibari", "bugs", "Hey, whats up?"),
    ("bugs", "rdibari", "nothing much, you"),
    ("rdibari", "bugs", "samees"),
    ("duck", "porky", "omw"),
];

/// Writes the examples into an empty database. Returns whether it was empty.
///
/// # Errors
/// Errors of the database.
pub async fn fill(app: &App) -> Result<bool> {
    app.db
        .write(app.clock.clone(), |conn, clock| {
            Box::pin(async move {
                // Two servers may start at the same time. The second one waits for this lock, and then finds the users
                // of the first one.
                store::events::events::lock(conn).await?;
                if store::identity::users::any(conn).await? {
                    return Ok(false);
                }
                let now = clock.now();
                for (first_name, last_name, user_name) in USERS {
                    let registration = Registration {
                        user_name: (*user_name).into(),
                        first_name: (*first_name).into(),
                        last_name: (*last_name).into(),
                        email: Some(format!("{user_name}@example.org")),
                        ..Registration::default()
                    };
                    store::identity::users::insert(conn, &registration.validate(now)?).await?;
                }
                for outcome in send_all(conn, &conversation(clock)).await? {
                    outcome?;
                }
                Ok(true)
            })
        })
        .await
}

fn conversation(clock: &Clock) -> Batch {
    let drafts = MESSAGES.iter().map(|(sender, recipient, body)| Draft {
        sender: Sender::Named((*sender).into()),
        recipient: Recipient::Direct((*recipient).into()),
        body: (*body).into(),
        reply_to: None,
        attachment_ids: Vec::new(),
        link_preview_declined: false,
        once: Once::without_key(),
        accepted_at: None,
        request_id: None,
    });
    // All example messages start unread, although sending a message normally marks what came before it as read.
    Batch::new(clock.clone(), drafts.collect(), DirectoryEntries::default(), DirectMessagesFrom::Everyone)
        .leaving_unread()
}
