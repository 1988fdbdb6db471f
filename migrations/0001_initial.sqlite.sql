-- PostgreSQL has sequences, SQLite a table of one row under the same name.
CREATE TABLE messaging.messaging_sequence (
    id INTEGER PRIMARY KEY,
    last_value BIGINT NOT NULL
);
INSERT INTO messaging.messaging_sequence (id, last_value) VALUES (1, 0);
