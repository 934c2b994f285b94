"""Explaining: what the server knows of an identity, of the proxies and of itself, and what follows from it."""
