-- Events up to trimmed_position are forgotten: whoever comes back with an older cursor is told so.
ALTER TABLE messaging.event_log ADD COLUMN trimmed_position BIGINT NOT NULL DEFAULT 0;
CREATE INDEX former_members_conversation_id ON messaging.former_members (conversation_id, left_at);
