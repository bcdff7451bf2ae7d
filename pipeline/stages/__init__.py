"""What is done to one shard; no Ray here."""
