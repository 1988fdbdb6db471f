-- XXH3-64 over what identifies a message and what it says (src/store/digests.rs), compared whenever it is read. NULL for rows
-- that were written before this version: there is nothing to compare them with.
ALTER TABLE messaging.messages ADD COLUMN digest BIGINT;
ALTER TABLE messaging.message_edits ADD COLUMN digest BIGINT;
