"""Settings every test runs under."""

import os

# Before TensorFlow is imported: its start-up banner is not ours to test.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
