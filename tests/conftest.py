"""Settings every test runs under."""

import os
import tempfile

# Before TensorFlow is imported: its start-up banner is not ours to test.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Choices of compile mode measured by tests are not the user's.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tapestep-tests-")
# Keras reads its number type and its data format from the user's ~/.keras.
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="tapestep-tests-")
