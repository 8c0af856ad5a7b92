"""The checksums of TFRecord files, by Google's library: TensorFlow has them in no public function.

The mask is TFRecord's (tensorflow/core/lib/hash/crc32c.h).
"""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt

_MASK_DELTA = 0xA282EAD8


def masked_crc32c(strings: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """The masked CRC-32C of each string, as TFRecord files store it: uint32 [len(strings)]."""
    crc = np.fromiter(map(google_crc32c.value, strings), np.uint32, len(strings))
    masked: npt.NDArray[np.uint32] = ((crc >> 15) | (crc << 17)) + np.uint32(_MASK_DELTA)
    return masked
