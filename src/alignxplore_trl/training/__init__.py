"""Cold start and reinforcement learning: thin subclasses of TRL's trainers, and what they need."""
