"""Where the rows of the steps go: JSON lines, CSV, TensorBoard."""
