-- The column holds the ids, separated by spaces.
INSERT INTO messaging.scheduled_attachments (scheduled_id, attachment_id)
SELECT DISTINCT scheduled_sends.id, attachment_id::bigint
FROM messaging.scheduled_sends, unnest(string_to_array(attachment_ids, ' ')) AS attachment_id
WHERE attachment_ids IS NOT NULL;
