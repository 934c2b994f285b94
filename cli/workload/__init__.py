"""A client of the SPIFFE Workload API, and the commands that are built on it."""
