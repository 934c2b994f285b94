"""Attestation of pods."""
