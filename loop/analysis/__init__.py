"""What a step costs, and which learning rates it can use."""
