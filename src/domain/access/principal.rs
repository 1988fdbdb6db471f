//! Who is calling, and what that lets them see and do.
//!
//! Invariant: a [`Principal`] comes only from `credentials`, which checked what the caller showed; what it may do is asked of
//! it, and of nothing else. An attempt to log in is a [`LogIn`], which opens nothing.
//!
//! [`LogIn`]: crate::domain::identity::sessions::LogIn

use std::net::IpAddr;
use std::sync::Arc;

use super::viewer::Viewer;
use crate::base::error::{Error, Result};
use crate::base::ids::{ApiKeyId, SessionId, UserId};
use crate::store::identity::users::Account;
pub use crate::store::identity::users::{Role, UserName};

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only callers with credentials.
    Secured,
    /// Everyone who reaches the server, as an API key would be; meant for loopback.
    Open,
}

/// What an API key lets its holder do. Each stands for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// Read what the person acted for may read, or everything.
    pub read: bool,
    /// Write likewise.
    pub write: bool,
    /// Administer.
    pub admin: bool,
}

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self { read: true, write: true, admin: true };

    /// The scopes' names, in their order.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.read, "read"), (self.write, "write"), (self.admin, "admin")];
        all.into_iter().filter(|(held, _)| *held).map(|(_, name)| name).collect()
    }

    /// Scopes by their names; `None` when there is an unknown one.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut scopes = Self::default();
        for name in names {
            match name {
                "read" => scopes.read = true,
                "write" => scopes.write = true,
                "admin" => scopes.admin = true,
                _ => return None,
            }
        }
        Some(scopes)
    }
}

/// By what a caller was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// By nothing: access is open.
    Open,
    /// By a session of a person.
    Session(SessionId),
    /// By a token that the operator's own backend signed for a person.
    Jwt,
    /// By an API key.
    ApiKey(ApiKeyId, Scopes),
}

/// The caller's key does not reach that far.
pub fn insufficient_scope(scope: &'static str) -> Error {
    Error::Forbidden {
        code: "insufficient_scope",
        detail: format!("the API key lacks the scope {scope}: make another one with it").into(),
    }
}

fn not_your_account() -> Error {
    Error::Forbidden { code: "not_your_account", detail: "only this user and administrators may do this".into() }
}

/// Someone who may call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal {
    credential: Credential,
    person: Option<Arc<Account>>,
    address: IpAddr,
}

impl Principal {
    pub(in crate::domain) const fn new(credential: Credential, person: Option<Arc<Account>>, address: IpAddr) -> Self {
        Self { credential, person, address }
    }

    /// By what they were let in.
    pub const fn credential(&self) -> Credential {
        self.credential
    }

    /// Where they call from.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The person who calls, or whom the caller acts for.
    pub fn person(&self) -> Option<&UserName> {
        self.person.as_ref().map(|account| &account.name)
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

    /// What the caller's key lets them do; a person's own credential sets no bounds.
    pub const fn scopes(&self) -> Scopes {
        match self.credential {
            Credential::ApiKey(_, scopes) => scopes,
            Credential::Open | Credential::Session(_) | Credential::Jwt => Scopes::ALL,
        }
    }

    /// Whether the caller administers the server: an administrator, or nobody in particular with the scope for it.
    pub fn is_admin(&self) -> bool {
        self.scopes().admin && self.person.as_ref().is_none_or(|account| account.role == Role::Admin)
    }

    /// With whose rights the caller reads.
    pub fn viewer(&self) -> Viewer {
        self.person().map_or(Viewer::Everything, |person| Viewer::Person(person.id))
    }

    /// Whether the caller acts for nobody, and so sees everything.
    pub const fn sees_everything(&self) -> bool {
        self.person.is_none()
    }

    /// Whether the caller is this person.
    pub fn is(&self, user: UserId) -> bool {
        self.person().is_some_and(|person| person.id == user)
    }

    /// Whether the caller may read what belongs to `user`.
    pub fn may_read_for(&self, user: UserId) -> bool {
        self.sees_everything() || self.is(user)
    }

    /// Whether e-mail addresses and settings of `user` are shown.
    pub fn sees_private(&self, user: UserId) -> bool {
        self.may_read_for(user) || self.is_admin()
    }

    /// That the caller may be this person or an administrator at all. To be asked before anybody is looked up: a key that stands
    /// for nobody and may not read learns nothing, not even who is there.
    ///
    /// # Errors
    /// 403 `not_your_account`.
    pub fn require_person_or_admin(&self) -> Result<()> {
        if self.person.is_some() || self.is_admin() { Ok(()) } else { Err(not_your_account()) }
    }

    /// That the caller is this person or an administrator.
    ///
    /// # Errors
    /// 403 `not_your_account`.
    pub fn require_self_or_admin(&self, user: UserId) -> Result<()> {
        if self.is(user) || self.is_admin() {
            return Ok(());
        }
        Err(not_your_account())
    }

    /// The scope of the caller's idempotency keys: the person, whatever the credential; the key where it acts for nobody; one
    /// for open access.
    pub fn idempotency_scope(&self) -> String {
        match (self.person(), self.credential) {
            (Some(person), _) => format!("user:{}", person.id.0),
            (None, Credential::ApiKey(id, _)) => format!("api-key:{}", id.0),
            (None, _) => "open".into(),
        }
    }

    /// That the caller may change by what an account is opened. An API key that acts for an administrator could make itself one
    /// that way, so it needs the scope `admin` for it.
    ///
    /// # Errors
    /// 403 `insufficient_scope`.
    pub fn require_power_over_account(&self) -> Result<()> {
        let administrator = self.person.as_ref().is_some_and(|account| account.role == Role::Admin);
        if administrator && !self.scopes().admin { Err(insufficient_scope("admin")) } else { Ok(()) }
    }

    /// A user name in a path, where `me` stands for the caller's own.
    ///
    /// # Errors
    /// 403 `act_as_required` for `me` when the caller is no person.
    pub fn resolve<'a>(&'a self, user_name: &'a str) -> Result<&'a str> {
        if user_name == "me" { Ok(&self.require_person()?.user_name) } else { Ok(user_name) }
    }
}
