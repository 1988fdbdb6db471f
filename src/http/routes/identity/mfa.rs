//! `/api/users/{user_name}/mfa`: the second factor of the caller.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::identity::{mfa, users};
use crate::http::access::policy::PersonWriting;
use crate::http::bodies::answers::{json, no_content};
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::parameters::OwnUserPath;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The secret of a second factor, in three forms for an authenticator app.
#[derive(Serialize, ToSchema)]
pub struct MfaOffer {
    /// The secret in base 32, for typing.
    #[schema(example = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")]
    secret: String,
    /// The secret as an otpauth URI, for a link.
    #[schema(example = "otpauth://totp/Posthaste:bugs?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP&issuer=Posthaste")]
    otpauth_uri: String,
    /// The secret as a QR code: an SVG document.
    qr_svg: String,
}

/// Get a secret for a second factor
///
/// The second factor is enabled only after `PUT` with a code of the authenticator app.
#[utoipa::path(
    post,
    path = "/api/users/{user_name}/mfa",
    tag = "users",
    params(OwnUserPath),
    responses(
        (status = 200, description = "The secret.", body = MfaOffer),
        (status = 409, description = "`mfa_enabled`."),
    ),
)]
pub async fn create_mfa_secret(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<OwnUserPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    users::require_self(&state.app, &principal, &path.user_name).await?;
    let offer = mfa::offer(&state.app, &principal).await?;
    let body = MfaOffer { secret: offer.secret, otpauth_uri: offer.otpauth_uri, qr_svg: offer.qr_svg };
    json(StatusCode::OK, &body)
}

/// A code of the authenticator app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"code": "123456"}))]
pub struct MfaCode {
    #[schema(min_length = 6, max_length = 16)]
    code: String,
}

/// The recovery codes, for use without the authenticator app.
#[derive(Serialize, ToSchema)]
pub struct RecoveryCodes {
    /// Each code can be used once.
    #[schema(min_items = 10, max_items = 10)]
    recovery_codes: Vec<String>,
}

/// Enable the second factor
///
/// Takes a code of the authenticator app, to prove that it has the secret. From then on a log-in needs a code.
#[utoipa::path(
    put,
    path = "/api/users/{user_name}/mfa",
    tag = "users",
    params(OwnUserPath),
    request_body = MfaCode,
    responses(
        (status = 200, description = "Enabled. The recovery codes are shown only in this answer.", body = RecoveryCodes),
        (status = 409, description = "`mfa_not_offered`, `mfa_enabled`."),
    ),
)]
pub async fn enable_mfa(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<OwnUserPath>,
    body: JsonBody<MfaCode>,
) -> Result<Response, Problem> {
    users::require_self(&state.app, &principal, &path.user_name).await?;
    let recovery_codes = mfa::enable(&state.app, &principal, &body.value.code).await?;
    json(StatusCode::OK, &RecoveryCodes { recovery_codes })
}

/// Request body for disabling the second factor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"password": "what's up, doc?", "code": "123456"}))]
pub struct MfaDisabling {
    password: String,
    /// A code of the authenticator app or a recovery code.
    #[schema(max_length = 254)]
    code: String,
}

/// Disable the second factor
///
/// Takes the password and a code, so that a stolen session cannot do it.
#[utoipa::path(
    post,
    path = "/api/users/{user_name}/mfa/disable",
    tag = "users",
    params(OwnUserPath),
    request_body = MfaDisabling,
    responses(
        (status = 204, description = "Disabled."),
        (status = 409, description = "`mfa_not_enabled`."),
    ),
)]
pub async fn disable_mfa(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<OwnUserPath>,
    body: JsonBody<MfaDisabling>,
) -> Result<Response, Problem> {
    users::require_self(&state.app, &principal, &path.user_name).await?;
    mfa::disable(&state.app, &principal, body.value.password, &body.value.code).await?;
    Ok(no_content())
}
