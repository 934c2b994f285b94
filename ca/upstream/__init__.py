"""Where the issuing authority comes from, when it is not a root of our own."""
