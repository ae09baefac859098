"""Files as erasure-coded, sealed shards: coding, the store at the holder, put and get."""
