"""Frozen networks that metrics and losses look through, and where their weights come from."""
