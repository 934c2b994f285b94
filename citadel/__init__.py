"""The shared language of Citadel: SPIFFE IDs, SVIDs, bundles, errors, configuration, clock and wire stubs.

Every other room may import this one; this one imports none of them.
"""
