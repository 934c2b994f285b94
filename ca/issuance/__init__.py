"""Issuing: from an agent's request to a certificate whose ledger row is durable."""
