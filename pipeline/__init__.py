"""From media to clip shards, checkpoints, latent stores and audits, on Ray."""
