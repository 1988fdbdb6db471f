-- A message is found by its id alone. Ids only grow, so a send appends to the last page of this index.
CREATE INDEX messages_id ON messaging.messages (id);
