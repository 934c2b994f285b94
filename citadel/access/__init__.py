"""Which requests are allowed: rules about peers, end users and what they ask for."""
