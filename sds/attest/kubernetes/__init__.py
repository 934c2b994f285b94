"""Attestation of pods: a caller's cgroup says which pod it runs in, and the API server says what that pod is."""
