"""JWT-SVIDs of the node's workloads: asked for when somebody asks, kept until half of their lives have passed."""
