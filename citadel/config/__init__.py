"""Configuration: YAML parsed once into frozen settings; unknown keys and unsafe files are refused, with the line."""
