"""Backups: all that the server keeps in one file, and back into an empty store."""
