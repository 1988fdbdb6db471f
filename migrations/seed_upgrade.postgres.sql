-- From the seed's two tables, set aside in messaging_seed by then, into ours. Runs in UTC, because the seed wrote UTC into
-- timestamps without a zone. $now stands for the moment of the upgrade. Users were copied before, for their keys are folded
-- in Rust.

INSERT INTO messaging.direct_conversations (lower_user_id, higher_user_id, conversation_id)
SELECT lower_user_id, higher_user_id, row_number() OVER (ORDER BY first_message_id)
  FROM (SELECT least(sender_id, recipient_id) AS lower_user_id,
               greatest(sender_id, recipient_id) AS higher_user_id,
               min(id) AS first_message_id
          FROM messaging_seed.messages
         GROUP BY least(sender_id, recipient_id), greatest(sender_id, recipient_id)) AS pairs;

INSERT INTO messaging.messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id, created_at,
                                timestamp_delivered, timestamp_read, body)
SELECT d.conversation_id,
       row_number() OVER (PARTITION BY d.conversation_id
                          ORDER BY coalesce(m.timestamp_sent, m.created_at, $now)::timestamptz, m.id),
       m.id,
       coalesce(m.timestamp_sent, m.created_at, $now)::timestamptz,
       'text',
       m.sender_id,
       m.recipient_id,
       coalesce(m.created_at, m.timestamp_sent, $now)::timestamptz,
       m.timestamp_delivered::timestamptz,
       m.timestamp_read::timestamptz,
       m.body
  FROM messaging_seed.messages m
  JOIN messaging.direct_conversations d
    ON d.lower_user_id = least(m.sender_id, m.recipient_id)
   AND d.higher_user_id = greatest(m.sender_id, m.recipient_id);

INSERT INTO messaging.conversations (id, kind, created_at, created_by, last_seq, last_sent_at, last_message_id)
SELECT first.conversation_id, 'direct', first.created_at, first.sender_id, last.seq, last.timestamp_sent, last.id
  FROM messaging.messages first
  JOIN (SELECT DISTINCT ON (conversation_id) conversation_id, seq, timestamp_sent, id
          FROM messaging.messages ORDER BY conversation_id, seq DESC) AS last
    ON last.conversation_id = first.conversation_id
 WHERE first.seq = 1;

INSERT INTO messaging.members (conversation_id, user_id, joined_at)
SELECT d.conversation_id, d.lower_user_id, c.created_at
  FROM messaging.direct_conversations d JOIN messaging.conversations c ON c.id = d.conversation_id
UNION
SELECT d.conversation_id, d.higher_user_id, c.created_at
  FROM messaging.direct_conversations d JOIN messaging.conversations c ON c.id = d.conversation_id;

UPDATE messaging.conversations
   SET member_count = (SELECT count(*) FROM messaging.members m WHERE m.conversation_id = conversations.id);

SELECT setval(pg_get_serial_sequence('messaging.conversations', 'id'),
              (SELECT coalesce(max(id), 0) + 1 FROM messaging.conversations), false);
SELECT setval(pg_get_serial_sequence('messaging.users', 'id'),
              (SELECT coalesce(max(id), 0) + 1 FROM messaging.users), false);
SELECT setval('messaging.messaging_sequence',
              greatest((SELECT coalesce(max(id), 0) FROM messaging.messages),
                       (SELECT last_value FROM messaging.messaging_sequence)),
              (SELECT is_called FROM messaging.messaging_sequence) OR EXISTS (SELECT FROM messaging.messages));

DROP TABLE messaging_seed.messages;
DROP TABLE messaging_seed.users;
DROP SCHEMA messaging_seed;
