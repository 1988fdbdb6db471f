-- Servers that keep presence, each under a name that it makes up when it starts. One that is not seen for a while, or stopped,
-- counts no more.
CREATE TABLE messaging.presence_servers (
    server TEXT COLLATE "C" PRIMARY KEY,
    seen_at TIMESTAMPTZ NOT NULL,
    stopped BOOLEAN NOT NULL
);

-- Who is there, by the server that they are at: 'online' or 'away'.
CREATE TABLE messaging.presence (
    user_id BIGINT NOT NULL,
    server TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (user_id, server)
) /*clustered*/;
CREATE INDEX presence_server ON messaging.presence (server);

-- What others were told last of a person as a whole, and when the person was seen last. Stays when they go.
CREATE TABLE messaging.last_seen (
    user_id BIGINT PRIMARY KEY,
    state TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL
);
