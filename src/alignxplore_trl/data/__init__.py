"""Sources of preference cases, their splits, and the rounds in which their signals arrive."""
