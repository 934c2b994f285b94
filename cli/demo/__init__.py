"""`citadel demo`: the main job on one machine, with real processes and real Envoys."""
