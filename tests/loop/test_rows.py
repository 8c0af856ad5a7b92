"""The table of what every step reported."""

import numpy as np
import pytest
import tensorflow as tf

from loop import rows
from loop.rows import Rows


@pytest.mark.parametrize("compile_mode", [None, False, True])
def test_packed_keeps_every_kind_of_scalar_exactly(compile_mode):
    """float32, float64, bool, ints and Python numbers come back bit for bit in float64."""
    values = {
        "loss": np.float32(1) / np.float32(3),
        "precise": np.float64(1) / 3,
        "half": np.float16(0.1),
        "finite": np.True_,
        "count": np.int64(2**53 - 1),
    }
    names = []

    def pack():
        found, vector = rows.packed({**{n: tf.constant(v) for n, v in values.items()}, "one": 1.25})
        names[:] = found
        return vector

    if compile_mode is not None:
        pack = tf.function(pack, jit_compile=compile_mode, autograph=False)
    vector = pack().numpy()
    assert names == [*values, "one"]
    assert vector.dtype == np.float64
    assert vector.shape == (rows.CAPACITY,)
    assert vector[: len(values)].tolist() == [float(value) for value in values.values()]
    assert vector[len(values)] == 1.25
    assert not vector[len(values) + 1 :].any()


def test_packed_takes_no_scalars_and_as_many_as_fit():
    """A step may report nothing, or CAPACITY scalars, and not one more."""
    assert rows.packed({})[0] == ()
    many = {f"m{index}": float(index) for index in range(rows.CAPACITY)}
    assert rows.packed(many)[1].numpy().tolist() == list(many.values())
    with pytest.raises(ValueError, match=f"at most {rows.CAPACITY} scalars, got"):
        rows.packed({**many, "more": 1.0})


def test_packed_refuses_tensors_and_the_rows_own_name():
    """A vector, or a scalar named as the row's number, is refused while tracing."""
    with pytest.raises(ValueError, match=r"'margin' has shape \(3,\); reduce it"):
        rows.packed({"margin": tf.zeros([3])})
    with pytest.raises(ValueError, match="'step' is the row's own number"):
        rows.packed({"step": 1.0})


def test_rows_count_steps_that_are_finished():
    """Row 0 of a call that starts at step 40 is step 41: the number of steps finished with it."""
    table = np.random.default_rng(0).normal(3, 1, [3, 2])
    found = Rows(40, ("loss", "accuracy"), table)
    assert len(found) == 3
    assert np.array_equal(found["accuracy"], table[:, 1])
    assert [row["step"] for row in found] == [41, 42, 43]
    assert [row["loss"] for row in found] == table[:, 0].tolist()
    with pytest.raises(KeyError, match="no column 'top5'; there are loss, accuracy"):
        _ = found["top5"]
