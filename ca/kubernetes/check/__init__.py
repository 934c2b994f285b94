"""Whether a cluster fits the settings of a server, point by point, before and after an install."""
