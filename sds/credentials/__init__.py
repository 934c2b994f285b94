"""Credentials of gateways on this node: what proxies ask for, and what the server says of it."""
