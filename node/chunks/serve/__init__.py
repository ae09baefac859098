"""What a donor does for others: takes shards, keeps them, serves them."""
