-- The attachments of scheduled messages. An attachment of a scheduled message is in use.
CREATE TABLE messaging.scheduled_attachments (
    scheduled_id BIGINT NOT NULL,
    attachment_id BIGINT NOT NULL,
    PRIMARY KEY (scheduled_id, attachment_id)
) /*clustered*/;
CREATE INDEX scheduled_attachments_attachment_id ON messaging.scheduled_attachments (attachment_id);
