"""Istio's proxies as clients: who asks, for which identity, and what they are answered."""
