"""Checkpoint files and training states: reading, writing in the background, going on after a stop."""
