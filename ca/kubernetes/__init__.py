"""What the server does with Kubernetes: who joins and asks by its word, and what it keeps there for others."""
