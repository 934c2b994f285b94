"""Identities by template: an entry for every admitted pod of a cluster, as long as the pod is there."""
