-- The place of a mention among those of its message, and whether it mentions the sender. Earlier versions derived both from
-- the text and the present names whenever a message was read. The start that applies this version writes them once for
-- existing messages (src/store/db/earlier_mentions.rs).
ALTER TABLE messaging.mentions ADD COLUMN place BIGINT NOT NULL DEFAULT 0;
ALTER TABLE messaging.mentions ADD COLUMN own BOOLEAN NOT NULL DEFAULT FALSE;
