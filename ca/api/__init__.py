"""The wire side of the server: services, listeners and sessions. Values are parsed here, decided on elsewhere."""
