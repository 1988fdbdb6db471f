-- The seed's name for the source of message ids. An upgraded seed brings its own.
CREATE SEQUENCE IF NOT EXISTS messaging.messaging_sequence;
-- Every send updates a row here: room on its page keeps the update from touching the index.
ALTER TABLE messaging.conversations SET (fillfactor = 60);
ALTER TABLE messaging.event_log SET (fillfactor = 10);
