//! Changing a password, resetting a forgotten password, and confirming an email address.

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

/// Request body for changing a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"current_password": "what's up, doc?", "new_password": "nothing much, you?"}))]
pub struct PasswordChange {
    /// May be absent if the account has no password.
    current_password: Option<String>,
    /// 8 to 256 characters, and not a common password.
    #[schema(min_length = 8, max_length = 256)]
    new_password: String,
}

/// Change the caller's password
///
/// All other sessions of the caller end.
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

/// Request body for asking for a password reset.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "elmer@example.org"}))]
pub struct ResetRequest {
    #[schema(max_length = 254)]
    email: String,
}

/// Ask for a password reset by mail
///
/// Sends a code for a new password if a user has this email address. The answer does not reveal whether one has.
#[utoipa::path(
    post,
    path = "/api/password-resets",
    tag = "sessions",
    request_body = ResetRequest,
    responses((status = 202, description = "Accepted. If a user has this address, a mail is sent.")),
)]
pub async fn request_password_reset(
    State(state): State<HttpState>,
    _caller: Public,
    ClientAddress(address): ClientAddress,
    body: JsonBody<ResetRequest>,
) -> Result<Response, Problem> {
    passwords::check_wanted(&body.value.email)?;
    let by = By::stranger(address, state.app.clock.now());
    let (app, email) = (state.app, body.value.email);
    // In the background, so that the time of the answer does not reveal whether a user has this address.
    tasks::spawn("password-reset", async move {
        if let Err(error) = passwords::ask_for_reset(&app, by, email).await {
            tracing::warn!(%error, "cannot send a code for a password reset");
        }
    });
    Ok(accepted())
}

fn accepted() -> Response {
    let mut response = no_content();
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// Request body for setting a new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"new_password": "nothing much, you?"}))]
pub struct NewPassword {
    /// 8 to 256 characters, and not a common password.
    #[schema(min_length = 8, max_length = 256)]
    new_password: String,
}

/// Path parameter of a route about one password reset.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PasswordResetPath {
    /// The code from the mail or from an administrator.
    code: String,
}

/// Set a new password with a code
///
/// All sessions of the user end. The code can be used once, within one hour.
#[utoipa::path(
    put,
    path = "/api/password-resets/{code}",
    tag = "sessions",
    params(PasswordResetPath),
    request_body = NewPassword,
    responses((status = 204, description = "The password is set.")),
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

/// Send a code that confirms the caller's email address
///
/// The code is sent by mail to the address of the account: at most 3 codes in an hour.
#[utoipa::path(
    post,
    path = "/api/users/{user_name}/email-confirmations",
    tag = "users",
    params(OwnUserPath),
    responses(
        (status = 202, description = "Accepted. A mail is sent, unless too many were sent in the last hour."),
        (status = 422, description = "No mail can be sent to the stored address."),
        (status = 409, description = "`no_email`."),
        (status = 501, description = "`mail_not_configured`."),
    ),
)]
pub async fn request_email_confirmation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<OwnUserPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    users::require_self(&state.app, &principal, &path.user_name).await?;
    passwords::ask_for_confirmation(&state.app, &principal).await?;
    Ok(accepted())
}

/// Path parameter of a route about the confirmation of one email address.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct EmailConfirmationPath {
    /// The code from the mail.
    code: String,
}

/// Confirm an email address with a code
///
/// The code can be used once, within one day.
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
