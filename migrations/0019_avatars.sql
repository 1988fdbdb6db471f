-- The pictures of users and groups: attachments, which are kept as long as they are here. The indexes find out whether an attachment
-- is in use. conversations.avatar_url has the path of the picture, or an address that a member gave.
ALTER TABLE messaging.users ADD COLUMN avatar_id BIGINT;
CREATE INDEX users_avatar_id ON messaging.users (avatar_id) WHERE avatar_id IS NOT NULL;
ALTER TABLE messaging.conversations ADD COLUMN avatar_id BIGINT;
CREATE INDEX conversations_avatar_id ON messaging.conversations (avatar_id) WHERE avatar_id IS NOT NULL;
