"""The trust bundle, kept in objects of Kubernetes where everybody finds it."""
