"""Revocation: certificates that are taken back before they end, and the signed lists that say so to every proxy."""
