-- Friends and blocks.

-- state is asked (one row, from who asks to whom) or friends (a row each way).
CREATE TABLE messaging.friendships (
    user_id BIGINT NOT NULL,
    friend_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, friend_id)
) /*clustered*/;
CREATE INDEX friendships_friend_id ON messaging.friendships (friend_id, user_id);

CREATE TABLE messaging.blocks (
    user_id BIGINT NOT NULL,
    blocked_id BIGINT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, blocked_id)
) /*clustered*/;
CREATE INDEX blocks_blocked_id ON messaging.blocks (blocked_id, user_id);

-- How many people someone blocks: whoever blocks nobody costs a sender no look-up.
ALTER TABLE messaging.users ADD COLUMN block_count BIGINT NOT NULL DEFAULT 0;

-- The person whom an event is about, where it is about one.
ALTER TABLE messaging.events ADD COLUMN subject_id BIGINT;
