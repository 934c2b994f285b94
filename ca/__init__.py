"""The control plane: keys, authorities, issuance, the store, joining, and the APIs that agents and administrators call."""
