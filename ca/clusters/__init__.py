"""Clusters below this one, of the same trust domain and root."""
