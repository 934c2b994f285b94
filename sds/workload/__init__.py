"""The SPIFFE Workload API: identities and bundles for programs that ask for them themselves."""
