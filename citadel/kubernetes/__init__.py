"""Speaking with the API of Kubernetes: one client, and informers that follow what changes there."""
