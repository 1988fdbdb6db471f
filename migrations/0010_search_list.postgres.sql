-- New entries wait in a list and are sorted in together (src/store/search.rs). Where there is no index yet, it is made so.
ALTER INDEX IF EXISTS messaging.search_entries_terms SET (fastupdate = on, gin_pending_list_limit = 4096);
