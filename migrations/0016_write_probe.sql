-- When a server last tried whether the database can be written, because nothing else was written for a while.
ALTER TABLE messaging.server_state ADD COLUMN write_probed_at TIMESTAMPTZ;
