"""Authorization for Envoy: who calls, for which end user, and whether that is allowed (ext_authz)."""
