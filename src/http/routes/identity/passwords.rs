//! Changing a password, resetting a forgotten one, confirming an address.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::base::tasks;
use crate::domain::identity::audit::By;
use crate::domain::identity::{passwords, users};
use crate::http::access::client_address::ClientAddress;
use crate::http::access::policy::{PersonWriting, Public};
use crate::http::bodies::answers::no_content;
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::parameters::OwnUserPath;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// A new password, and the one before.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"current_password": "what's up, doc?", "new_password": "nothing much, you?"}))]
pub struct PasswordChange {
    /// May be left out where there is none yet.
    current_password: Option<String>,
    /// 8 to 256 characters, not one of the commonest.
    #[schema(min_length = 8, max_length = 256)]
    new_password: String,
}

/// Changes the caller's own password; their other sessions end.
#[utoipa::path(
    put,
    path = "/api/users/{user_name}/password",
    tag = "users",
    params(OwnUserPath),
    request_body = PasswordChange,
    responses((status = 204, description = "Changed.")),
)]
pub async fn change_password(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<OwnUserPath>,
    body: JsonBody<PasswordChange>,
) -> Result<Response, Problem> {
    users::require_self(&state.app, &principal, &path.user_name).await?;
    passwords::change(&state.app, &principal, body.value.current_password, body.value.new_password).await?;
    Ok(no_content())
}

/// Whose password is forgotten.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "bugs@example.org"}))]
pub struct ResetRequest {
    #[schema(max_length = 254)]
    email: String,
}

/// Sends a code for a new password to an address, if it is somebody's: the answer does not tell.
#[utoipa::path(
    post,
    path = "/api/password-resets",
    tag = "sessions",
    request_body = ResetRequest,
    responses((status = 202, description = "If the address is somebody's, a mail is on its way.")),
)]
pub async fn ask_for_password_reset(
    State(state): State<HttpState>,
    _caller: Public,
    ClientAddress(address): ClientAddress,
    body: JsonBody<ResetRequest>,
) -> Result<Response, Problem> {
    passwords::check_wanted(&body.value.email)?;
    let by = By::stranger(address, state.app.clock.now());
    let (app, email) = (state.app, body.value.email);
    // Beside the answer, which so takes the same time whether there is somebody or not.
    tasks::spawn("password-reset", async move {
        if let Err(error) = passwords::ask_for_reset(&app, by, email).await {
            tracing::warn!(%error, "a code for a new password could not be sent");
        }
    });
    Ok(accepted())
}

fn accepted() -> Response {
    let mut response = no_content();
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"new_password": "nothing much, you?"}))]
pub struct NewPassword {
    /// 8 to 256 characters, not one of the commonest.
    #[schema(min_length = 8, max_length = 256)]
    new_password: String,
}

/// A password reset, by its code.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PasswordResetPath {
    /// The code of the mail, or from an administrator.
    code: String,
}

/// Sets a new password with a code that was sent; every session ends. The code works once, within an hour.
#[utoipa::path(
    put,
    path = "/api/password-resets/{code}",
    tag = "sessions",
    params(PasswordResetPath),
    request_body = NewPassword,
    responses((status = 204, description = "Set.")),
)]
pub async fn reset_password(
    State(state): State<HttpState>,
    _caller: Public,
    ClientAddress(address): ClientAddress,
    Path(path): Path<PasswordResetPath>,
    body: JsonBody<NewPassword>,
) -> Result<Response, Problem> {
    let by = By::stranger(address, state.app.clock.now());
    passwords::reset(&state.app, by, &path.code, body.value.new_password).await?;
    Ok(no_content())
}

/// Sends the caller a code that confirms their address.
#[utoipa::path(
    post,
    path = "/api/users/{user_name}/email-confirmations",
    tag = "users",
    params(OwnUserPath),
    responses(
        (status = 202, description = "A mail is on its way, unless there were too many in the last hour."),
        (status = 422, description = "No mail can go to the address that is stored."),
        (status = 409, description = "`no_email`."),
        (status = 501, description = "`mail_not_configured`."),
    ),
)]
pub async fn ask_for_email_confirmation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<OwnUserPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    users::require_self(&state.app, &principal, &path.user_name).await?;
    passwords::ask_for_confirmation(&state.app, &principal).await?;
    Ok(accepted())
}

/// The confirmation of an address, by its code.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct EmailConfirmationPath {
    /// The code of the mail.
    code: String,
}

/// Confirms an address with a code that was sent. The code works once, within a day.
#[utoipa::path(
    put,
    path = "/api/email-confirmations/{code}",
    tag = "users",
    params(EmailConfirmationPath),
    responses((status = 204, description = "Confirmed.")),
)]
pub async fn confirm_email(
    State(state): State<HttpState>,
    _caller: Public,
    ClientAddress(address): ClientAddress,
    Path(path): Path<EmailConfirmationPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let by = By::stranger(address, state.app.clock.now());
    passwords::confirm_email(&state.app, by, &path.code).await?;
    Ok(no_content())
}
