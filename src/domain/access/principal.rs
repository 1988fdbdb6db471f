//! The caller of a request, and what they may see and do.
//!
//! Invariant: only `credentials` creates a [`Principal`], after it has checked the credentials of the caller. Every
//! permission is a method of the principal. An attempt to log in is a [`LogIn`], which gives no permission.
//!
//! [`LogIn`]: crate::domain::identity::sessions::LogIn

use std::net::IpAddr;
use std::sync::Arc;

use super::viewer::Viewer;
use crate::base::error::{Error, Result};
use crate::base::ids::{ApiKeyId, SessionId, UserId};
use crate::store::identity::users::Account;
pub use crate::store::identity::users::{Role, UserSummary};

/// Which callers the server accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only callers with credentials.
    Secured,
    /// Everyone who can reach the server, with the rights of an API key that has every scope. Meant for the loopback
    /// interface.
    Open,
}

/// The scopes of an API key. No scope includes another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// May read what the user in whose name it acts may read, or everything if it acts as no user.
    pub read: bool,
    /// May write, within the same limits.
    pub write: bool,
    /// May call the routes for administrators.
    pub admin: bool,
}

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self { read: true, write: true, admin: true };

    /// The names of the scopes, in a fixed order.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.read, "read"), (self.write, "write"), (self.admin, "admin")];
        all.into_iter().filter(|(held, _)| *held).map(|(_, name)| name).collect()
    }

    /// Parses names of scopes; `None` if a name is unknown.
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

/// How the caller was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Not at all: access is open.
    Open,
    /// With a session of a user.
    Session(SessionId),
    /// With a JWT that the operator's own backend signed for a user.
    Jwt,
    /// With an API key.
    ApiKey(ApiKeyId, Scopes),
}

/// The error for an API key without the scope that a request needs.
pub fn insufficient_scope(scope: &'static str) -> Error {
    Error::Forbidden {
        code: "insufficient_scope",
        detail: format!("The API key lacks the scope {scope}; use a key that has it").into(),
    }
}

fn not_your_account() -> Error {
    Error::Forbidden { code: "not_your_account", detail: "Only this user and administrators may do this".into() }
}

/// A caller with the permissions of a request. Cheap to clone.
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

    /// How the caller was authenticated.
    pub const fn credential(&self) -> Credential {
        self.credential
    }

    /// The network address of the caller.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The user who calls, or in whose name the caller acts.
    pub fn person(&self) -> Option<&UserSummary> {
        self.person.as_ref().map(|account| &account.name)
    }

    /// The user who calls, or in whose name the caller acts.
    ///
    /// # Errors
    /// 403 `act_as_required` if there is none.
    pub fn require_person(&self) -> Result<&UserSummary> {
        self.person().ok_or(Error::Forbidden {
            code: "act_as_required",
            detail: "This request needs a user; name one with the header X-Act-As: user_name".into(),
        })
    }

    /// The scopes of the caller's API key. Other credentials are not limited by scopes.
    pub const fn scopes(&self) -> Scopes {
        match self.credential {
            Credential::ApiKey(_, scopes) => scopes,
            Credential::Open | Credential::Session(_) | Credential::Jwt => Scopes::ALL,
        }
    }

    /// Whether the caller may administer the server: a user with the role `admin`, or an API key with the scope `admin`
    /// that acts as no user. An API key that acts as an administrator needs the scope as well.
    pub fn is_admin(&self) -> bool {
        self.scopes().admin && self.person.as_ref().is_none_or(|account| account.role == Role::Admin)
    }

    /// The viewer with whose rights the caller reads.
    pub fn viewer(&self) -> Viewer {
        self.person().map_or(Viewer::Everything, |person| Viewer::Person(person.id))
    }

    /// Whether the caller is not a user and acts as none. Such a caller sees everything.
    pub const fn sees_everything(&self) -> bool {
        self.person.is_none()
    }

    /// Whether the caller is this user or acts as this user.
    pub fn is(&self, user: UserId) -> bool {
        self.person().is_some_and(|person| person.id == user)
    }

    /// Whether the caller may read the data of `user`.
    pub fn may_read_for(&self, user: UserId) -> bool {
        self.sees_everything() || self.is(user)
    }

    /// Whether the caller may see the e-mail address and the settings of `user`.
    pub fn sees_private(&self, user: UserId) -> bool {
        self.may_read_for(user) || self.is_admin()
    }

    /// Checks that the caller is a user, acts as a user, or is an administrator. Call it before looking up any user: an
    /// API key that acts as no user and lacks the scope `admin` must not learn which users exist.
    ///
    /// # Errors
    /// 403 `not_your_account`.
    pub fn require_person_or_admin(&self) -> Result<()> {
        if self.person.is_some() || self.is_admin() { Ok(()) } else { Err(not_your_account()) }
    }

    /// Checks that the caller is this user or an administrator.
    ///
    /// # Errors
    /// 403 `not_your_account`.
    pub fn require_self_or_admin(&self, user: UserId) -> Result<()> {
        if self.is(user) || self.is_admin() {
            return Ok(());
        }
        Err(not_your_account())
    }

    /// The scope within which the caller's idempotency keys are unique. It is the user, whatever credentials they use.
    /// For a caller that acts as no user, it is the API key, or a single scope for open access.
    pub fn idempotency_scope(&self) -> String {
        match (self.person(), self.credential) {
            (Some(person), _) => format!("user:{}", person.id.0),
            (None, Credential::ApiKey(id, _)) => format!("api-key:{}", id.0),
            (None, _) => "open".into(),
        }
    }

    /// Checks that the caller may change the credentials of the user. If an API key acts as an administrator, it could
    /// use such a change to log in as that administrator. So it needs the scope `admin`.
    ///
    /// # Errors
    /// 403 `insufficient_scope`.
    pub fn require_account_control(&self) -> Result<()> {
        let administrator = self.person.as_ref().is_some_and(|account| account.role == Role::Admin);
        if administrator && !self.scopes().admin { Err(insufficient_scope("admin")) } else { Ok(()) }
    }

    /// Resolves the user name in a path: `me` stands for the caller's own name.
    ///
    /// # Errors
    /// 403 `act_as_required` for `me` if the caller acts as no user.
    pub fn resolve<'a>(&'a self, user_name: &'a str) -> Result<&'a str> {
        if user_name == "me" { Ok(&self.require_person()?.user_name) } else { Ok(user_name) }
    }
}
