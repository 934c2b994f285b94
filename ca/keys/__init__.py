"""Private keys of authorities: made, sealed and used here, and never handed out (invariant 1)."""
