"""Command-line jobs: argv to config to one function call."""
