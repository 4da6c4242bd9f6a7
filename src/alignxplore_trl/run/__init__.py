"""Ground floor: errors, files, run folders, progress and tracking. Any part may use it."""
