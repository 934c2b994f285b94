"""Explaining to an administrator of the node what the agent does for one of its processes."""
