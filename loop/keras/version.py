"""The versions of Keras that the adapter was read against.

`loop.keras` uses names that Keras does not promise to keep: another version may lack one,
or give it another meaning and train another model without an error. So any other is refused.
"""

from __future__ import annotations

import re
from typing import Any

# setup.cfg has the same bounds; tests/loop/keras/test_version.py lists the names and their meaning.
OLDEST = (3, 12)
NEWEST = (3, 15)


class UnsupportedKerasError(ImportError):
    """The Keras in use is not one that the loop can work with.

    Attributes:
      expected: what would be right.
      found: what is there.
      mend: what to do about it.
    """

    def __init__(self, *, expected: str, found: str, mend: str) -> None:
        super().__init__(
            f"loop.keras: expected {expected}, found {found}; to mend: {mend}",
            name="keras",
        )
        self.expected = expected
        self.found = found
        self.mend = mend


def check(keras: Any) -> None:
    """Refuses a Keras whose internals the adapter does not know.

    Args:
      keras: the module.

    Raises:
      UnsupportedKerasError: on another version, or a backend other than TensorFlow.
    """
    version = str(getattr(keras, "__version__", "of no version"))
    parts = re.match(r"(\d+)\.(\d+)", version)
    if parts is None or not OLDEST <= (int(parts[1]), int(parts[2])) <= NEWEST:
        oldest, newest = (".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
        raise UnsupportedKerasError(
            expected=f"Keras {oldest} to {newest}, whose internals it uses",
            found=f"Keras {version}",
            mend=f"pip install 'keras>={oldest},<{NEWEST[0]}.{NEWEST[1] + 1}'",
        )
    if (backend := keras.config.backend()) != "tensorflow":
        raise UnsupportedKerasError(
            expected="Keras on TensorFlow",
            found=f"its backend {backend}",
            mend="set KERAS_BACKEND=tensorflow, or mend keras.json in ~/.keras",
        )
