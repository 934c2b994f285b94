"""The store: SQL behind the ports of the other folders. Nothing here decides; it makes durable."""
