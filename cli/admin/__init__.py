"""The commands of `citadel-cli`, one file per group, and what they share."""
