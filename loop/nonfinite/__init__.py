"""What was not finite in a step, and the file that replays it."""
