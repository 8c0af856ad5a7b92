"""The parts of `experiments.train`: from checked settings to a result."""
