-- Entries are marked with a third, smaller window of ids (src/store/search.rs): in a lively group the others are full of hits.
UPDATE messaging.search_entries SET terms = terms || ('''u:' || (id >> 9) || '''')::tsvector
 WHERE NOT terms @@ ('''u:' || (id >> 9) || '''')::tsquery;
