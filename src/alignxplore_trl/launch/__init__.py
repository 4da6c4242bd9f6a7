"""From a command line to checked values: Hydra, TRL arguments, run names. Used by recipes only."""
