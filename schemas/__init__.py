"""Arrow schemas and metadata keys of everything on disk."""
