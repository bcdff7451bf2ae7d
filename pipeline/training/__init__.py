"""Where Ray Train is."""
