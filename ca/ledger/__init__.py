"""The hash chain of the records: its format, its signed checkpoints, and how a changed row is found. Pure rules."""
