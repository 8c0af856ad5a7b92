"""The cases of the replica tests: every pair of two choices occurs in one of them.

Each comes with the number of replicas that is compared with one; 0 for two worker processes, None
for a run on one replica alone. A batch of 16 divides; 12 in micro-batches of 3, 10 and 3 do not,
and the last two leave one of four replicas with less or nothing.
"""

from __future__ import annotations

from tests.replicas.cases import Case

FLOAT64 = {
    "mlp": (Case("mlp", batch_norm="synchronized", bits=True, evaluated=True, cut=60), 2),
    "mlp-adam": (
        Case("mlp-adam", optimizer="adam", accumulate=4, batch_size=12, evaluated=True),
        4,
    ),
    "cnn": (
        Case("cnn", model="cnn", optimizer="adam", batch_norm="synchronized", batch_size=10),
        4,
    ),
    "cnn-accumulated": (
        Case("cnn-accumulated", model="cnn", batch_norm="synchronized", accumulate=4, steps=50),
        2,
    ),
    "embedding": (Case("embedding", model="embedding", optimizer="adam", batch_size=10), 2),
    "embedding-accumulated": (
        Case("embedding-accumulated", model="embedding", accumulate=4, clip=False),
        4,
    ),
    "empty": (Case("empty", batch_size=3, batch_norm="synchronized", bits=True), 4),
    "xla": (Case("xla", mode="xla", optimizer="adam", accumulate=4, batch_size=12, bits=True), 2),
    "workers": (Case("workers", batch_norm="synchronized", batch_size=11, bits=True), 0),
    "workers-embedding": (
        Case("workers-embedding", model="embedding", optimizer="adam", evaluated=True, steps=50),
        0,
    ),
}
FLOAT32 = {
    "single-precision": (
        Case(
            "single-precision",
            dtype="float32",
            batch_norm="synchronized",
            batch_size=12,
            stepwise=True,
        ),
        2,
    ),
    "single-precision-adam": (
        Case(
            "single-precision-adam",
            dtype="float32",
            optimizer="adam",
            accumulate=4,
            stepwise=True,
        ),
        4,
    ),
}
CONTROL = Case("control", dtype="float32", batch_norm="synchronized", batch_size=12, permuted=True)
POISONED = {
    "poisoned": (
        Case("poisoned", batch_norm="synchronized", poison=17, stepwise=True, steps=24),
        2,
    ),
    "poisoned-adam": (
        Case("poisoned-adam", optimizer="adam", accumulate=4, poison=40, stepwise=True, steps=24),
        4,
    ),
}
EACH_ITS_OWN_NORM = (
    Case("own-norm", batch_norm="replica", batch_size=3, stepwise=True, steps=12),
    4,
)

CASES: list[tuple[Case, int | None]] = [
    *FLOAT64.values(),
    *FLOAT32.values(),
    (CONTROL, None),
    *POISONED.values(),
    EACH_ITS_OWN_NORM,
]
