//! Policies: the type of a handler's parameter says who may call its route.
//!
//! Invariant: every handler under `/api` has exactly one of these parameters, and there is no other way to get a [`Principal`].
//! The credentials of a user have every scope. An API key has the scopes that it was created with.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::client_address::ClientAddress;
use crate::base::error::Error;
use crate::domain::access::principal::{Principal, insufficient_scope};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// All callers, with or without credentials.
pub struct Public(pub Option<Principal>);

/// Callers with the scope `read`.
pub struct Reader(pub Principal);

/// Callers with the scope `write`.
pub struct Writer(pub Principal);

/// Callers with the scope `read` who are a user or act as one.
pub struct PersonReading(pub Principal);

/// Callers with the scope `write` who are a user or act as one.
pub struct PersonWriting(pub Principal);

/// Administrators, and API keys with the scope `admin`.
pub struct Administrator(pub Principal);

fn principal_of(parts: &mut Parts) -> Result<Principal, Problem> {
    parts.extensions.remove::<Principal>().ok_or_else(|| Error::Unauthenticated.into())
}

fn require_read(principal: Principal) -> Result<Principal, Problem> {
    if principal.scopes().read { Ok(principal) } else { Err(insufficient_scope("read").into()) }
}

fn require_write(principal: Principal) -> Result<Principal, Problem> {
    if principal.scopes().write { Ok(principal) } else { Err(insufficient_scope("write").into()) }
}

fn require_person(principal: Principal) -> Result<Principal, Problem> {
    principal.require_person()?;
    Ok(principal)
}

fn require_admin(principal: Principal) -> Result<Principal, Problem> {
    if principal.is_admin() {
        return Ok(principal);
    }
    if !principal.scopes().admin {
        return Err(insufficient_scope("admin").into());
    }
    Err(Error::Forbidden { code: "admin_required", detail: "Only administrators may do this".into() }.into())
}

macro_rules! policy {
    ($name:ident: $($check:expr),+) => {
        impl FromRequestParts<HttpState> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
                let principal = principal_of(parts)?;
                $(let principal = $check(principal)?;)+
                Ok(Self(principal))
            }
        }
    };
}

policy!(Reader: require_read);
policy!(Writer: require_write);
policy!(PersonReading: require_read, require_person);
policy!(PersonWriting: require_write, require_person);
policy!(Administrator: require_admin);

impl FromRequestParts<HttpState> for Public {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
        Ok(Self(parts.extensions.remove::<Principal>()))
    }
}

impl FromRequestParts<HttpState> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
        let address = parts.extensions.get::<Self>().copied();
        address.ok_or_else(|| Error::internal("a request has no client address").into())
    }
}
