"""HTTPS for strangers: one listener, and the certificates that it can show."""
