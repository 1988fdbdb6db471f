//! Who may call a route, said in its handler's signature.
//!
//! Invariant: every handler under `/api` takes exactly one of these, and there is no other way to a [`Principal`]. A person's
//! own credential has every scope; an API key has those that it was made with.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::client_address::ClientAddress;
use crate::base::error::Error;
use crate::domain::access::principal::{Principal, insufficient_scope};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Everyone, known or not.
pub struct Public(pub Option<Principal>);

/// Callers who may read.
pub struct Reader(pub Principal);

/// Callers who may write.
pub struct Writer(pub Principal);

/// Persons, or callers who stand for one, who may read.
pub struct PersonReading(pub Principal);

/// Persons, or callers who stand for one, who may write.
pub struct PersonWriting(pub Principal);

/// Administrators, and API keys with the scope `admin`.
pub struct Administrator(pub Principal);

fn caller(parts: &mut Parts) -> Result<Principal, Problem> {
    parts.extensions.remove::<Principal>().ok_or_else(|| Error::Unauthenticated.into())
}

fn reading(principal: Principal) -> Result<Principal, Problem> {
    if principal.scopes().read { Ok(principal) } else { Err(insufficient_scope("read").into()) }
}

fn writing(principal: Principal) -> Result<Principal, Problem> {
    if principal.scopes().write { Ok(principal) } else { Err(insufficient_scope("write").into()) }
}

fn person(principal: Principal) -> Result<Principal, Problem> {
    principal.require_person()?;
    Ok(principal)
}

fn administering(principal: Principal) -> Result<Principal, Problem> {
    if principal.is_admin() {
        return Ok(principal);
    }
    if !principal.scopes().admin {
        return Err(insufficient_scope("admin").into());
    }
    Err(Error::Forbidden { code: "admin_required", detail: "only administrators may do this".into() }.into())
}

macro_rules! policy {
    ($name:ident: $($check:expr),+) => {
        impl FromRequestParts<HttpState> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
                let principal = caller(parts)?;
                $(let principal = $check(principal)?;)+
                Ok(Self(principal))
            }
        }
    };
}

policy!(Reader: reading);
policy!(Writer: writing);
policy!(PersonReading: reading, person);
policy!(PersonWriting: writing, person);
policy!(Administrator: administering);

impl FromRequestParts<HttpState> for Public {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
        Ok(Self(parts.extensions.remove::<Principal>()))
    }
}

impl FromRequestParts<HttpState> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &HttpState) -> Result<Self, Problem> {
        let known = parts.extensions.get::<Self>().copied();
        known.ok_or_else(|| Error::internal("a request without an address").into())
    }
}
