"""Checkpoint files, the settings beside them and training states: reading, writing in the background, resuming."""
