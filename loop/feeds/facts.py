"""What decides the examples of a run: stored with each checkpoint, compared by a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from loop.feeds.feed import Feed

_EXAMPLES = 64
_ELEMENTS = 1024
_NOT_FINITE = ", with values that are not finite"


@runtime_checkable
class HasFacts(Protocol):
    """A feed that can tell its data from another's."""

    def facts(self) -> dict[str, Any]:
        """JSON values that are equal for equal data, found in milliseconds whatever its size.

        A name that means something to one kind of feed alone is compared with its own kind only:
        the same data may be resumed from another feed.
        """


def facts_of(feed: Feed, step: Any) -> dict[str, Any]:
    """What of the feed and the step decides which examples a batch holds, as JSON values."""
    known = feed.facts() if isinstance(feed, HasFacts) else {}
    return {
        "batch_size": feed.batch_size,
        "accumulate": int(getattr(step, "accumulate", 1)),
        **known,
    }


def sampled_examples(size: int) -> npt.NDArray[np.int64]:
    """The places of the examples that a fingerprint reads: at most 64, the first and the last."""
    return np.unique(np.linspace(0, size - 1, _EXAMPLES).astype(np.int64))


def sampled_elements(example: Any) -> npt.NDArray[Any]:
    """Some 1,000 elements of an example, at even distances; all of one that has no more."""
    flat = np.asarray(example).reshape(-1)
    return flat[:: max(1, flat.size // _ELEMENTS)]


def fingerprint(samples: Iterable[npt.NDArray[Any]]) -> str:
    """16 hexadecimal digits of the SHA-256 of these elements, strings by their bytes.

    It says where an element is not finite: data that a failed run is given anew, repaired, is told
    from other data by it (see `is_repaired`).
    """
    digest = hashlib.sha256()
    finite = True
    for sample in samples:
        if sample.dtype.kind in "OSU":
            words = [w if isinstance(w, bytes) else str(w).encode() for w in sample.tolist()]
            digest.update(b"".join(b"%d:%s" % (len(word), word) for word in words))
        else:
            digest.update(np.ascontiguousarray(sample).tobytes())
            finite = finite and bool(np.isfinite(sample).all() if sample.dtype.kind in "fc" else 1)
    return digest.hexdigest()[:16] + ("" if finite else _NOT_FINITE)


def is_repaired(saved: Any, name: str) -> bool:
    """Whether a difference in the fact `name` may be the repair of values that are not finite."""
    fingerprints = saved.get("fingerprint", {}) if isinstance(saved, Mapping) else {}
    group, _, feature = name.partition(".")
    found = fingerprints.get(feature) if isinstance(fingerprints, Mapping) else None
    return group == "fingerprint" and str(found).endswith(_NOT_FINITE)


def feature(dtype: Any, shape: Iterable[int | None]) -> str:
    """An example's dtype and shape, such as `float32[28,28]`; strings of any length are one."""
    name = np.dtype(dtype)
    sizes = ",".join("?" if size is None else str(size) for size in shape)
    return f"{'string' if name.kind in 'OSU' else name.name}[{sizes}]"
