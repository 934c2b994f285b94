"""Agents: how they join, who they are, and what they may."""
