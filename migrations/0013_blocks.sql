-- What the two were last seen at when the block began: it is all that they see of each other until it ends. NULL for never.
ALTER TABLE messaging.blocks ADD COLUMN user_seen_at TIMESTAMPTZ;
ALTER TABLE messaging.blocks ADD COLUMN blocked_seen_at TIMESTAMPTZ;
