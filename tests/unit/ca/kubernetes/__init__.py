"""What the server does with Kubernetes."""
