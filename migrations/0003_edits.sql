-- Editing and deleting: the message has its present body, earlier ones are kept here until it is deleted.

ALTER TABLE messaging.messages ADD COLUMN edited_at TIMESTAMPTZ;

-- edition counts from 1; at is when that body was written.
CREATE TABLE messaging.message_edits (
    conversation_id BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    edition BIGINT NOT NULL,
    body TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (conversation_id, seq, edition)
) /*clustered*/;
