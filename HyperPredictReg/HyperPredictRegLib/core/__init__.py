"""What everything stands on: errors, files, JSON, progress, the search space of an engine."""
