"""Trust of other trust domains: their bundles, where they are fetched, and where ours is."""
