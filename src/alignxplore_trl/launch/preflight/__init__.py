"""What would end a run after an hour, found in seconds."""
