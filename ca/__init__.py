"""The control plane: keys, authorities, issuance, the store, joining, and the APIs for agents and administrators."""
