-- How many people put which emoji under a message, kept with it in the order in which they came: "👍 3 🎉 1". So a page of
-- messages is shown without counting rows of messaging.reactions. NULL while there is none.
ALTER TABLE messaging.messages ADD COLUMN reaction_counts TEXT;

-- Replies that were sent before they were counted.
UPDATE messaging.messages
   SET reply_count = (SELECT count(*) FROM messaging.messages r
                       WHERE r.conversation_id = messages.conversation_id AND r.reply_to = messages.seq
                         AND r.deleted_at IS NULL),
       last_reply_at = (SELECT max(r.timestamp_sent) FROM messaging.messages r
                         WHERE r.conversation_id = messages.conversation_id AND r.reply_to = messages.seq
                           AND r.deleted_at IS NULL)
 WHERE EXISTS (SELECT 1 FROM messaging.messages r
                WHERE r.conversation_id = messages.conversation_id AND r.reply_to = messages.seq
                  AND r.deleted_at IS NULL);
