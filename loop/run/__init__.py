"""A run on disk and as a process: its directory, its lock, its signals."""
