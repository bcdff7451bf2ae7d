"""Where planned shards meet Ray Data."""
