"""The agent's side of the server: joining, its own identity on disk, the stream that keeps it informed."""
