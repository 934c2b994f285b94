"""Asking servers that may be anybody's over HTTPS: which addresses, how many redirects, how much, for how long."""
