"""Vault, or OpenBao, as this server speaks to it: one connection, logged in, with its errors told apart."""
