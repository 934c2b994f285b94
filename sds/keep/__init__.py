"""Keeping an SVID for every entry: when to renew, with which key, and what to check before it is handed on."""
