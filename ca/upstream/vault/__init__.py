"""Upstream `vault`: a root in Vault's PKI secrets engine signs this server's issuing authorities."""
