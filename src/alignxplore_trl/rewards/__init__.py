"""Reward callables for TRL's GRPOTrainer."""
