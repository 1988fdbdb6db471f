//! The codes of errors, each defined once. `docs/api.md` lists them, and the OpenAPI document has them as enums.
//!
//! Invariant: every code that the server answers is here. Tests compare the lists with the source code and with `docs/api.md`.

/// The codes of problem documents, by their HTTP status.
pub const PROBLEM_CODES: &[(u16, &[&str])] = &[
    (
        400,
        &[
            "invalid_host",
            "malformed_json",
            "malformed_body",
            "malformed_query",
            "malformed_request",
            "malformed_form",
            "websocket_required",
            "bad_request",
        ],
    ),
    (401, &["unauthenticated", "invalid_credentials", "mfa_required"]),
    (
        403,
        &[
            "act_as_required",
            "act_as_not_allowed",
            "insufficient_scope",
            "admin_required",
            "not_your_account",
            "not_the_sender",
            "not_your_messages",
            "not_your_message",
            "not_friends",
            "insufficient_role",
            "registration_closed",
            "wrong_password",
            "banned",
            "foreign_origin",
            "not_your_emoji",
        ],
    ),
    (
        404,
        &[
            "not_found",
            "user_not_found",
            "conversation_not_found",
            "message_not_found",
            "session_not_found",
            "api_key_not_found",
            "code_not_found",
            "friend_not_found",
            "block_not_found",
            "member_not_found",
            "invite_not_found",
            "webhook_not_found",
            "incoming_webhook_not_found",
            "scheduled_not_found",
            "reaction_not_found",
            "report_not_found",
            "attachment_not_found",
            "link_not_found",
            "upload_not_found",
            "emoji_not_found",
            "gif_not_found",
        ],
    ),
    (405, &["method_not_allowed"]),
    (408, &["request_timeout"]),
    (
        409,
        &[
            "user_name_taken",
            "email_taken",
            "no_email",
            "mfa_enabled",
            "mfa_not_offered",
            "mfa_not_enabled",
            "not_yourself",
            "message_deleted",
            "too_many_edits",
            "blocked",
            "too_many_friends",
            "too_many_blocks",
            "not_a_group",
            "last_owner",
            "too_many_members",
            "too_many_invites",
            "too_many_webhooks",
            "too_many_incoming_webhooks",
            "is_bot",
            "too_many_scheduled",
            "too_many_reactions",
            "too_many_pins",
            "not_forwardable",
            "already_reported",
            "too_many_reports",
            "emoji_name_taken",
            "too_many_emoji",
            "too_many_gifs",
            "too_many_open_uploads",
            "upload_offset_mismatch",
            "too_many_parts",
        ],
    ),
    (410, &["cursor_expired", "file_lost"]),
    (412, &["precondition_failed", "unsupported_tus_version"]),
    (413, &["body_too_large", "file_too_large", "file_quota_exceeded"]),
    (414, &["uri_too_long"]),
    (415, &["unsupported_media_type"]),
    (416, &["range_not_satisfiable"]),
    (421, &["foreign_host"]),
    (
        422,
        &[
            "invalid_fields",
            "idempotency_key_reused",
            "not_an_image",
            "damaged_file",
            "image_too_large",
            "unsupported_image_type",
        ],
    ),
    (426, &["unsupported_websocket_version"]),
    (429, &["rate_limited", "too_many_attempts", "too_many_uploads"]),
    (431, &["headers_too_large"]),
    (500, &["internal", "damaged"]),
    (501, &["mail_not_configured", "files_not_configured", "gif_search_not_configured"]),
    (503, &["unavailable", "gif_provider_unavailable", "too_many_connections", "task_failing"]),
    (507, &["storage_full"]),
];

/// The codes of invalid fields.
pub const FIELD_CODES: &[&str] = &[
    "required",
    "unknown_field",
    "unknown_parameter",
    "duplicate",
    "wrong_type",
    "wrong_value",
    "out_of_range",
    "too_long",
    "too_short",
    "nul_character",
    "control_character",
    "excluded",
    "invalid_cursor",
    "invalid_idempotency_key",
    "invalid_user_name",
    "reserved_user_name",
    "invalid_email",
    "invalid_address",
    "common_password",
    "password_is_name",
    "wrong_code",
    "user_not_found",
    "message_not_found",
    "attachment_not_found",
    "invalid_file_name",
    "yourself",
    "unknown_emoji",
    "invalid_emoji_name",
    "prefix_too_short",
    "no_search_terms",
    "too_many_terms",
    "invalid_url",
    "malformed_json",
    "too_many",
    "malformed_frame",
    "unknown_type",
    "unknown_state",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The words between backticks that can be codes.
    fn quoted(text: &str) -> Vec<&str> {
        let is_code = |word: &&str| word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        text.split('`').skip(1).step_by(2).filter(is_code).collect()
    }

    /// The rows of a table, each as its first two cells.
    fn rows<'a>(documentation: &'a str, head: &str) -> Vec<(&'a str, &'a str)> {
        let (_, table) = documentation.split_once(head).expect("the table of codes");
        let rows = table.lines().skip(2).map_while(|row| row.strip_prefix("| "));
        rows.map(|row| row.split_once(" | ").expect("two cells")).collect()
    }

    #[test]
    fn the_documentation_lists_every_code() {
        let documentation = std::fs::read_to_string("docs/api.md").unwrap();
        for (status, cell) in rows(&documentation, "\n| status | `code` |") {
            let (_, codes) = PROBLEM_CODES
                .iter()
                .find(|(of, _)| of.to_string() == status)
                .unwrap_or_else(|| panic!("no code of the status {status} is in PROBLEM_CODES"));
            // The cell also names the header or the field that comes with the codes.
            let documented: Vec<&str> = quoted(cell).into_iter().filter(|word| *word != "errors").collect();
            assert_eq!(documented, *codes, "codes of the status {status}");
        }
        let statuses = rows(&documentation, "\n| status | `code` |").len();
        assert_eq!(statuses, PROBLEM_CODES.len(), "docs/api.md has a row for each status");
        let of_fields = rows(&documentation, "\n| code of a field | meaning |");
        let documented: Vec<&str> = of_fields.iter().flat_map(|(codes, _)| quoted(codes)).collect();
        assert_eq!(documented, FIELD_CODES);
    }
}
