"""tapestep: a compiled training loop for TensorFlow."""
