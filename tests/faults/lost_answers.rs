//! Lost answers to a COMMIT: a pooler loses its connection to the database, and the server gets the pooler's own error as the
//! answer to its COMMIT.
//!
//! Promise: the server does not repeat a unit of work that may have been committed. A send without an idempotency key is stored
//! once, and its caller gets 503, because the outcome is unknown. With a key the
//! caller could repeat the send and would get the stored message; this test sends no key.

use reqwest::Method;
use serde_json::json;

use super::proxy::Proxy;
use super::{assert_unavailable, call};
use crate::operations::durability::stored;
use crate::support::place::{Kind, Place};
use crate::support::process::{Process, Wrapping};

#[test]
fn a_commit_whose_answer_is_lost_is_not_run_again() {
    crate::support::run(Kind::Postgres, async |place: &Place| {
        let proxy = Proxy::start(&place.postgres_url()).await;
        let wrapping = Wrapping { database_url: Some(proxy.url(&place.postgres_url())), ..Wrapping::default() };
        let server = Process::start_wrapped(place, wrapping).await;
        for round in 0..5 {
            let body = format!("lost {round}");
            let message = json!({"recipient_user_name": "duck", "body": body});
            proxy.lose_answer_of_commit();
            let answer = call(server.address, "bugs", Method::POST, "/api/messages", Some(message)).await;
            assert_unavailable(&answer);
            assert_eq!(stored(place).await.get(&body).map(Vec::len), Some(1), "{body}");
        }
        server.terminate().await;
    });
}
