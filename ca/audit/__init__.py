"""Who did what, and why: the record of administrative acts and refusals (invariant 10)."""
