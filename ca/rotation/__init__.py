"""Rotation: how the mesh goes over to new authorities and new SVIDs without anybody noticing."""
