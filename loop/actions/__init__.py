"""What the outer loop does at boundaries, and what it shows of its progress."""
