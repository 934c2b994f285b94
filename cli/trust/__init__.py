"""Why two clusters do or do not trust each other."""
