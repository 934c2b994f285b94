"""Keys in Vault's Transit secrets engine: made there, signing there, and never seen here."""
