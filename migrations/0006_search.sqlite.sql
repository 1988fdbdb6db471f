-- The index of what was said: rowid is the message's id, terms is its stream (src/terms.rs, src/store/search.rs). The stream
-- is stored, so that taking it out never depends on cutting the message the same way again.
CREATE VIRTUAL TABLE messaging.search_entries USING fts5(
    terms, conversation_id UNINDEXED, seq UNINDEXED, timestamp_sent UNINDEXED,
    tokenize = "ascii tokenchars ':'", columnsize = 0
);
-- What is taken out is taken out of the index's pages at once, not when they are merged some day.
INSERT INTO messaging.search_entries (search_entries, rank) VALUES ('secure-delete', 1);
