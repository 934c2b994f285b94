"""Registration entries: the rules they must keep, and the directory that answers who may ask for which."""
