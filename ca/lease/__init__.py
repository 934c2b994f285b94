"""The lease: which one of several servers owns the store, and so may sign and serve."""
