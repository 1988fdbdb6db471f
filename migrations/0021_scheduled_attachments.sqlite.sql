-- The column holds the ids, separated by spaces.
INSERT INTO messaging.scheduled_attachments (scheduled_id, attachment_id)
SELECT DISTINCT scheduled_sends.id, held.value
FROM messaging.scheduled_sends, json_each('[' || replace(attachment_ids, ' ', ',') || ']') AS held
WHERE attachment_ids IS NOT NULL;
