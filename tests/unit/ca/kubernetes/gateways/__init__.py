"""Credentials of gateways, on the side of the server."""
