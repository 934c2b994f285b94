"""`citadel-cli authz`: policies for end users, checked and explained without an agent."""
