"""The tasks, one file each; all of them are trained, evaluated and saved by the same code."""
