"""Upstream `citadel`: a parent server of the same trust domain signs this server's issuing authorities."""
