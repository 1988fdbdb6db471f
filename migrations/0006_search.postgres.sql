-- The index of what was said: id is the message's, terms is its stream (src/terms.rs, src/store/search.rs).
CREATE TABLE messaging.search_entries (
    id BIGINT PRIMARY KEY,
    conversation_id BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    timestamp_sent TIMESTAMPTZ NOT NULL,
    terms TSVECTOR NOT NULL
);
