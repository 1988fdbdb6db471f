//! The expected outcome of every operation for every kind of caller. The table was written from docs/api.md, not from the code.

use std::collections::BTreeMap;

/// The columns:
///
/// - `no`: callers without credentials, and callers with invalid credentials: expired, revoked, invented, or of a banned or
///   erased user. Public routes treat both as callers without credentials. All other routes refuse both in the same way.
/// - `me`: the subject, that is, the user whom the request is about. The credentials are a session, a cookie or a JWT.
/// - `ot`, `ad`: another user, an administrator.
/// - `r`, `w`, `a`, `*`: API keys with the scope `read`, `write`, `admin`, or all three, that act as no user.
/// - `r/m` …: the same keys, acting as the subject. `r/a` …: acting as the administrator.
///
/// Two more columns follow from the kind of credentials, see [`derived`].
///
/// A cell is the status of a request that is allowed, or one of [`REFUSALS`].
const TABLE: &str = "
operation                                         no  me  ot  ad  r   w   a   *   r/m w/m a/m */m r/a w/a a/a */a

GET /healthz                                      200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200
GET /readyz                                       200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200
GET /api/capabilities                             200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200

POST /api/sessions                                201 201 201 201 201 201 201 201 201 201 201 201 201 201 201 201
GET /api/sessions                                 401 200 200 200 act scp scp act 200 scp scp 200 200 scp scp 200
DELETE /api/sessions/{id}                         401 204 ses ses scp act scp act scp 204 scp 204 scp ses scp ses
POST /api/password-resets                         202 202 202 202 202 202 202 202 202 202 202 202 202 202 202 202
PUT /api/password-resets/{code}                   204 204 204 204 204 204 204 204 204 204 204 204 204 204 204 204
PUT /api/email-confirmations/{code}               204 204 204 204 204 204 204 204 204 204 204 204 204 204 204 204

GET /api/users                                    401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
POST /api/users                                   reg reg reg 201 scp 201 scp 201 scp reg scp reg scp reg scp 201
GET /api/users/{user_name}                        401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
PATCH /api/users/{user_name}                      401 200 own 200 scp key scp 200 scp 200 scp 200 scp own scp 200
DELETE /api/users/{user_name}                     401 204 own 204 scp key scp 204 scp 204 scp 204 scp own scp 204
GET /api/users/{user_name}/presence               401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
GET /api/presence                                 401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
GET /api/users/{user_name}/export                 401 200 own 200 key scp scp 200 200 scp scp 200 own scp scp 200
PUT /api/users/{user_name}/password               401 204 own own scp act scp act scp 204 scp 204 scp own scp own
PUT /api/users/{user_name}/avatar                 401 200 own own scp act scp act scp 200 scp 200 scp own scp own
DELETE /api/users/{user_name}/avatar              401 204 own 204 scp key scp 204 scp 204 scp 204 scp own scp 204
POST /api/users/{user_name}/email-confirmations   401 202 own own scp act scp act scp 202 scp 202 scp own scp own
POST /api/users/{user_name}/mfa                   401 200 own own scp act scp act scp 200 scp 200 scp own scp own
PUT /api/users/{user_name}/mfa                    401 200 own own scp act scp act scp 200 scp 200 scp own scp own
POST /api/users/{user_name}/mfa/disable           401 204 own own scp act scp act scp 204 scp 204 scp own scp own

POST /api/messages                                401 201 snd snd scp 201 scp 201 scp 201 scp 201 scp snd scp snd
GET /api/messages/{user_name}                     401 200 msg msg 200 scp scp 200 200 scp scp 200 msg scp scp msg
GET /api/messages/by-id/{id}                      401 200 non non 200 scp scp 200 200 scp scp 200 non scp scp non
POST /api/attachments                             401 201 201 201 scp act scp act scp 201 scp 201 scp 201 scp 201
GET /api/attachments/{id}                         401 200 att att 200 scp scp 200 200 scp scp 200 att scp scp att
GET /api/attachments/{id}/thumbnail               401 200 att att 200 scp scp 200 200 scp scp 200 att scp scp att
POST /api/uploads                                 401 201 201 201 scp act scp act scp 201 scp 201 scp 201 scp 201
HEAD /api/uploads/{id}                            401 200 upl upl act scp scp act 200 scp scp 200 upl scp scp upl
PATCH /api/uploads/{id}                           401 204 upl upl scp act scp act scp 204 scp 204 scp upl scp upl
DELETE /api/uploads/{id}                          401 204 upl upl scp act scp act scp 204 scp 204 scp upl scp upl
POST /api/attachments/{id}/links                  401 200 att att act scp scp act 200 scp scp 200 att scp scp att
GET /api/files/{token}                            200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200
GET /api/emoji                                    401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
PUT /api/emoji/{name}                             401 adm adm 201 scp scp scp 201 scp scp scp adm scp scp scp 201
PATCH /api/emoji/{name}                           401 adm adm 200 scp scp scp 200 scp scp scp adm scp scp scp 200
DELETE /api/emoji/{name}                          401 adm adm 204 scp scp scp 204 scp scp scp adm scp scp scp 204
GET /api/emoji/custom/{id}                        401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
GET /api/gifs/search                              401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
GET /api/gifs/trending                            401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
GET /api/gifs/{id}/preview                        401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
POST /api/gifs/{id}/attach                        401 201 201 201 scp act scp act scp 201 scp 201 scp 201 scp 201
GET /api/gifs                                     401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
POST /api/gifs                                    401 adm adm 201 scp scp 201 201 scp scp adm adm scp scp 201 201
DELETE /api/gifs/{id}                             401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
DELETE /api/gifs/packs/{pack}                     401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
GET /api/scheduled                                401 200 200 200 act scp scp act 200 scp scp 200 200 scp scp 200
GET /api/scheduled/{id}                           401 200 sch sch act scp scp act 200 scp scp 200 sch scp scp sch
DELETE /api/scheduled/{id}                        401 204 sch sch scp act scp act scp 204 scp 204 scp sch scp sch
GET /api/conversations                            401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
POST /api/conversations                           401 201 201 201 scp act scp act scp 201 scp 201 scp 201 scp 201
GET /api/conversations/{id}                       401 200 con con 200 scp scp 200 200 scp scp 200 con scp scp con
PATCH /api/conversations/{id}                     401 200 con con scp act scp act scp 200 scp 200 scp con scp con
DELETE /api/conversations/{id}                    401 204 con con scp act scp act scp 204 scp 204 scp con scp con
PUT /api/conversations/{id}/avatar                401 200 con con scp act scp act scp 200 scp 200 scp con scp con
DELETE /api/conversations/{id}/avatar             401 204 con con scp act scp act scp 204 scp 204 scp con scp con
GET /api/conversations/{id}/members               401 200 con con 200 scp scp 200 200 scp scp 200 con scp scp con
PUT /api/conversations/{id}/members/{user_name}   401 201 con con scp act scp act scp 201 scp 201 scp con scp con
DELETE /api/conversations/{id}/members/{user_name} 401 204 con con scp act scp act scp 204 scp 204 scp con scp con
POST /api/conversations/{id}/invites              401 201 con con scp act scp act scp 201 scp 201 scp con scp con
GET /api/conversations/{id}/invites               401 200 con con act scp scp act 200 scp scp 200 con scp scp con
DELETE /api/conversations/{id}/invites/{invite_id} 401 204 con con scp act scp act scp 204 scp 204 scp con scp con
POST /api/conversations/{id}/incoming-webhooks    401 201 con con scp act scp act scp 201 scp 201 scp con scp con
GET /api/conversations/{id}/incoming-webhooks     401 200 con con act scp scp act 200 scp scp 200 con scp scp con
DELETE /api/conversations/{id}/incoming-webhooks/{hook_id} 401 204 con con scp act scp act scp 204 scp 204 scp con scp con
POST /api/hooks/{token}                           200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200
GET /api/invites/{code}                           200 200 200 200 200 200 200 200 200 200 200 200 200 200 200 200
POST /api/invites/{code}                          401 201 201 201 scp act scp act scp 201 scp 201 scp 201 scp 201
GET /api/conversations/{id}/messages              401 200 con con 200 scp scp 200 200 scp scp 200 con scp scp con
GET /api/conversations/{id}/messages/{seq}        401 200 non non 200 scp scp 200 200 scp scp 200 non scp scp non
PATCH /api/conversations/{id}/messages/{seq}      401 200 non non scp act scp act scp 200 scp 200 scp non scp non
DELETE /api/conversations/{id}/messages/{seq}     401 204 non non scp nym scp 204 scp 204 scp 204 scp non scp non
GET /api/conversations/{id}/messages/{seq}/history 401 200 non non 200 scp scp 200 200 scp scp 200 non scp scp non
PUT /api/conversations/{id}/messages/{seq}/reactions/{emoji} 401 201 non non scp act scp act scp 201 scp 201 scp non scp non
DELETE /api/conversations/{id}/messages/{seq}/reactions/{emoji} 401 204 non non scp act scp act scp 204 scp 204 scp non scp non
GET /api/conversations/{id}/messages/{seq}/reactions 401 200 non non 200 scp scp 200 200 scp scp 200 non scp scp non
PUT /api/conversations/{id}/messages/{seq}/pin    401 204 non non scp rol scp 204 scp 204 scp 204 scp non scp non
DELETE /api/conversations/{id}/messages/{seq}/pin 401 204 non non scp rol scp 204 scp 204 scp 204 scp non scp non
GET /api/conversations/{id}/pins                  401 200 con con 200 scp scp 200 200 scp scp 200 con scp scp con
GET /api/conversations/{id}/messages/{seq}/replies 401 200 non non 200 scp scp 200 200 scp scp 200 non scp scp non
POST /api/conversations/{id}/messages/{seq}/forward 401 201 non non scp act scp act scp 201 scp 201 scp non scp non
POST /api/conversations/{id}/messages/{seq}/report 401 201 non non scp act scp act scp 201 scp 201 scp non scp non

POST /api/conversations/{id}/receipts             401 200 con con scp act scp act scp 200 scp 200 scp con scp con
POST /api/conversations/{id}/typing               401 204 con con scp act scp act scp 204 scp 204 scp con scp con
GET /api/conversations/{id}/messages/{seq}/receipts 401 200 non non 200 scp scp 200 200 scp scp 200 non scp scp non
GET /api/search/messages                          401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200

GET /api/events                                   401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
GET /api/events/stream                            401 200 200 200 200 scp scp 200 200 scp scp 200 200 scp scp 200
GET /api/ws                                       401 400 400 400 400 scp scp 400 400 scp scp 400 400 scp scp 400

GET /api/friends                                  401 200 200 200 act scp scp act 200 scp scp 200 200 scp scp 200
GET /api/friends/requests                         401 200 200 200 act scp scp act 200 scp scp 200 200 scp scp 200
PUT /api/friends/{user_name}                      401 201 201 201 scp act scp act scp 201 scp 201 scp 201 scp 201
DELETE /api/friends/{user_name}                   401 204 fri fri scp act scp act scp 204 scp 204 scp fri scp fri
GET /api/blocks                                   401 200 200 200 act scp scp act 200 scp scp 200 200 scp scp 200
PUT /api/blocks/{user_name}                       401 204 204 204 scp act scp act scp 204 scp 204 scp 204 scp 204
DELETE /api/blocks/{user_name}                    401 204 blk blk scp act scp act scp 204 scp 204 scp blk scp blk

GET /api/api-keys                                 401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
POST /api/api-keys                                401 adm adm 201 scp scp 201 201 scp scp adm adm scp scp 201 201
DELETE /api/api-keys/{id}                         401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
GET /api/webhooks                                 401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
POST /api/webhooks                                401 adm adm 201 scp scp 201 201 scp scp adm adm scp scp 201 201
GET /api/webhooks/{id}                            401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
PATCH /api/webhooks/{id}                          401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
DELETE /api/webhooks/{id}                         401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
GET /api/webhooks/{id}/deliveries                 401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
POST /api/webhooks/{id}/replay                    401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
POST /api/webhooks/{id}/rotate-secret             401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
POST /api/webhooks/{id}/test                      401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
PUT /api/admin/users/{user_name}/ban              401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
DELETE /api/admin/users/{user_name}/ban           401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
PUT /api/admin/users/{user_name}/role             401 adm adm 204 scp scp 204 204 scp scp adm adm scp scp 204 204
POST /api/admin/users/{user_name}/password-resets 401 adm adm 201 scp scp 201 201 scp scp adm adm scp scp 201 201
GET /api/admin/audit                              401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
GET /api/admin/stats                              401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
GET /api/admin/reports                            401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
PATCH /api/admin/reports                          401 adm adm 200 scp scp 200 200 scp scp adm adm scp scp 200 200
";

/// For each refusal: the word in a cell, the status, the code, and whether callers get it only for things that they may see.
/// All other refusals must be the same for a thing that does not exist, so that they do not show which things exist.
const REFUSALS: &[(&str, u16, &str, bool)] = &[
    ("401", 401, "unauthenticated", false),
    ("scp", 403, "insufficient_scope", false),
    ("act", 403, "act_as_required", false),
    ("nax", 403, "act_as_not_allowed", false),
    ("for", 403, "foreign_origin", false),
    ("adm", 403, "admin_required", false),
    ("reg", 403, "registration_closed", false),
    ("own", 403, "not_your_account", true),
    ("key", 403, "not_your_account", false),
    ("msg", 403, "not_your_messages", true),
    ("snd", 403, "not_the_sender", true),
    ("ses", 404, "session_not_found", false),
    ("nym", 403, "not_your_message", true),
    ("rol", 403, "insufficient_role", true),
    ("non", 404, "message_not_found", false),
    ("att", 404, "attachment_not_found", false),
    ("upl", 404, "upload_not_found", false),
    ("sch", 404, "scheduled_not_found", false),
    ("con", 404, "conversation_not_found", false),
    ("fri", 404, "friend_not_found", true),
    ("blk", 404, "block_not_found", true),
];

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(u16),
    Refused {
        status: u16,
        code: &'static str,
        /// Whether the refusal shows that the thing exists.
        of_visible_thing: bool,
    },
}

/// The outcomes by operation (`METHOD /path/{template}`) and column.
pub type Table = BTreeMap<&'static str, BTreeMap<&'static str, Outcome>>;

pub fn table() -> Table {
    let mut lines = TABLE.lines().filter(|line| !line.is_empty());
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().skip(1).collect();
    let mut table = Table::new();
    for line in lines {
        let (operation, cells) = line.split_at(line.match_indices(' ').nth(1).unwrap().0);
        let cells: Vec<Outcome> = cells.split_whitespace().map(outcome).collect();
        assert_eq!(cells.len(), columns.len(), "{operation}");
        let mut row: BTreeMap<&str, Outcome> = columns.iter().copied().zip(cells).collect();
        row.extend(derived(operation, row["no"], row["me"]));
        let known = table.insert(operation, row);
        assert!(known.is_none(), "{operation} is in the table twice");
    }
    table
}

/// The outcomes of two more columns:
///
/// - `ax`: the session of a user, with the header `X-Act-As`, which callers that are users may not send.
/// - `fp`: the subject's cookie, sent by a page of a foreign origin. Reads are answered, since the browser does not show the
///   answer to the page.
///
/// On public routes both count as callers without credentials.
fn derived(operation: &str, nobody: Outcome, subject: Outcome) -> [(&'static str, Outcome); 2] {
    if nobody != outcome("401") {
        return [("ax", nobody), ("fp", nobody)];
    }
    let by_page =
        if operation.starts_with("GET ") || operation.starts_with("HEAD ") { subject } else { outcome("for") };
    [("ax", outcome("nax")), ("fp", by_page)]
}

fn outcome(cell: &str) -> Outcome {
    match REFUSALS.iter().find(|(word, ..)| *word == cell) {
        Some((_, status, code, of_visible_thing)) => {
            Outcome::Refused { status: *status, code, of_visible_thing: *of_visible_thing }
        }
        None => Outcome::Done(cell.parse().unwrap()),
    }
}
