"""Authorities: the root, the issuing authorities under it, and what the trust bundle says of them."""
