"""Plans, ledgers, shards and stores on any file system."""
