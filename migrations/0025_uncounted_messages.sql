-- A running count of the messages that unread counts leave out, which are system messages: total is their number in the
-- conversation up to and including this one. So the number of unread messages is a subtraction of two totals, whatever the
-- length of the conversation. Ordinary messages have no row here, so sending one costs nothing and the upgrade rewrites no
-- message.
CREATE TABLE messaging.uncounted_messages (
    conversation_id BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    total BIGINT NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) /*clustered*/;
INSERT INTO messaging.uncounted_messages (conversation_id, seq, total)
SELECT m.conversation_id, m.seq, row_number() OVER (PARTITION BY m.conversation_id ORDER BY m.seq)
  FROM messaging.conversations c JOIN messaging.messages m ON m.conversation_id = c.id
 WHERE c.kind = 'group' AND m.kind = 'system';
