-- The preview of the first link of a message as JSON, or 'declined' if its sender wanted none. NULL while there is none.
ALTER TABLE messaging.messages ADD COLUMN link_preview TEXT;
ALTER TABLE messaging.scheduled_sends ADD COLUMN link_preview_declined BOOLEAN NOT NULL DEFAULT FALSE;
