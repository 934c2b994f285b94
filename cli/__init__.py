"""Composition and commands: the processes (`citadel`) and their administration (`citadel-cli`)."""
