//! Who is calling, and what that lets them see.
//!
//! Invariant: a [`Principal`] comes only from [`authenticate`]; a route that needs to know the caller takes one.

use crate::app::App;
use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::store;
use crate::store::users::UserName;
use crate::text::fold_ascii;

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only callers with credentials.
    Secured,
    /// Everyone who reaches the server, as an API key would be; meant for loopback.
    Open,
}

/// What a caller shows.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `X-Act-As`: the user whom a caller that is no person stands for.
    pub act_as: Option<String>,
}

/// Someone who may call.
#[derive(Clone, Debug)]
pub enum Principal {
    /// Open access: sees everything, and is the person it acts as, if any.
    Open {
        /// The person of `X-Act-As`.
        acting: Option<UserName>,
    },
}

/// Says who is calling.
///
/// # Errors
/// [`Error::Unauthenticated`] without valid credentials; 422 on `X-Act-As` when it names nobody.
pub async fn authenticate(app: &App, credentials: Credentials) -> Result<Principal> {
    match app.settings.access {
        Access::Secured => Err(Error::Unauthenticated),
        Access::Open => {
            let Some(name) = credentials.act_as else {
                return Ok(Principal::Open { acting: None });
            };
            let key = fold_ascii(&name);
            let found = app
                .db
                .read(key, |conn, key| Box::pin(async move { store::users::names_by_keys(conn, &[key]).await }))
                .await?;
            match found.into_iter().next() {
                Some(user) => Ok(Principal::Open { acting: Some(user) }),
                None => Err(Error::invalid("X-Act-As", "user_not_found", "names no user")),
            }
        }
    }
}

impl Principal {
    /// The person who calls, if it is one.
    pub const fn person(&self) -> Option<&UserName> {
        match self {
            Self::Open { acting } => acting.as_ref(),
        }
    }

    /// The person who calls.
    ///
    /// # Errors
    /// 403 `act_as_required` when nobody is named.
    pub fn require_person(&self) -> Result<&UserName> {
        self.person().ok_or(Error::Forbidden {
            code: "act_as_required",
            detail: "this needs a person: name one with the header X-Act-As: user_name".into(),
        })
    }

    /// Whether the caller may read what belongs to `user`.
    pub fn may_read_for(&self, user: UserId) -> bool {
        match self {
            Self::Open { acting } => acting.as_ref().is_none_or(|person| person.id == user),
        }
    }

    /// Whether e-mail addresses and settings of `user` are shown.
    pub fn sees_private(&self, user: UserId) -> bool {
        self.may_read_for(user)
    }

    /// The scope of the caller's idempotency keys: the person, whatever the credential; one for open access.
    pub fn idempotency_scope(&self) -> String {
        match self.person() {
            Some(person) => format!("user:{}", person.id.0),
            None => "open".into(),
        }
    }

    /// A user name in a path, where `me` stands for the caller's own.
    ///
    /// # Errors
    /// 403 `act_as_required` for `me` when the caller is no person.
    pub fn resolve<'a>(&'a self, user_name: &'a str) -> Result<&'a str> {
        if user_name == "me" { Ok(&self.require_person()?.user_name) } else { Ok(user_name) }
    }
}
