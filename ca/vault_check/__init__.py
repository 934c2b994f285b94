"""Whether a Vault fits the settings of a server, point by point, and the policy that it needs there."""
