"""The kernels' race compares like with like, and writes rows of the promised form."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from experiments.benchmark.measurement import Options
from experiments.benchmark.measurements import (
    augmentation_case,
    kernel_cases,
    kernels,
    update_case,
)
from experiments.benchmark.measurements.kernel_cases import Case

ROW = {
    *("kernel", "shape", "dtype", "target", "ours_ms", "ours_ms_min", "ours_ms_max"),
    *("reference", "reference_ms", "reference_ms_min", "reference_ms_max", "ratio"),
}
RANDOM = ("random.uniform", "dropout")
DETERMINISTIC = {c.kernel: c for c in kernel_cases.CASES if c.kernel not in RANDOM}


def _small(case: Case) -> Case:
    """The case at a size that takes no time."""
    shape = {2: (8, 16), 4: (4, 6, 6, 8)}[len(case.shape)]
    return case._replace(shape=shape)


@pytest.mark.parametrize("kernel", DETERMINISTIC)
def test_every_form_of_a_case_computes_the_same(kernel: str) -> None:
    """Output and gradients of ours and of each reference agree: the race is of one maths."""
    case = _small(DETERMINISTIC[kernel])
    built = case.build(case.shape, tf.float32)
    for direction in kernel_cases.BOTH:

        def results(form: kernel_cases.Form, direction: Any = direction) -> list[Any]:
            return kernels.evaluated(form, built, direction, built.inputs)

        ours = results(built.ours)
        for name, form in built.references.items():
            for mine, theirs in zip(ours, results(form), strict=True):
                assert mine.shape == theirs.shape, name
                np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3, err_msg=name)


def test_a_measurement_gives_a_row_for_each_reference() -> None:
    """A real, tiny comparison on both targets; pooling runs in a loop under XLA."""
    case = _small(next(c for c in kernel_cases.CASES if c.kernel == "max_pool2d"))
    built = case.build(case.shape, tf.float32)
    for compiler, where in (("graph", "graph"), ("xla", "xla, in a loop")):
        options = Options(seconds=1e-4)
        (row,) = kernels.measure(case, built, compiler, "forward+backward", options)
        assert set(row) == ROW
        assert row["target"] == where
        assert row["kernel"] == "max_pool2d forward+backward"
        assert 0 < row["ours_ms_min"] <= row["ours_ms"] <= row["ours_ms_max"]
        assert row["ratio"] > 0


def test_a_turn_of_the_loop_depends_on_the_turn_before() -> None:
    """Otherwise a compiler could compute one turn and skip the others."""
    case = _small(DETERMINISTIC["conv2d"])
    built = case.build(case.shape, tf.float32)
    x, kernel = kernels.looped(built.ours, built, "forward+backward", built.inputs)
    assert np.abs(x - built.inputs[0]).max() > 0
    assert np.abs(kernel - built.inputs[1]).max() > 0


def test_both_optimizers_make_the_same_update() -> None:
    """Ours and TensorFlow's clip with Keras's Adam move a variable alike."""
    generator = np.random.default_rng(0)
    gradients = [tf.constant(generator.standard_normal(1000).astype(np.float32)) for _ in range(3)]
    ours, ours_variables = update_case.ours(3, 1000)
    theirs, their_variables = update_case.by_keras(3, 1000)
    for _ in range(3):
        ours(gradients)
        theirs(gradients)
    for mine, other in zip(ours_variables, their_variables, strict=True):
        assert np.abs(mine.numpy() - 1.0).max() > 1e-3
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-5)


def test_augmentation_without_scipy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that cannot run is named, and the rows against the others are there."""
    monkeypatch.setattr(augmentation_case, "has", lambda _: False)
    case = augmentation_case.CASES[0]._replace(shape=(128, 6, 6, 1))
    built = case.build(case.shape, tf.float32)
    assert built.missing == [
        "augment.article: keras ImageDataGenerator: needs SciPy; pip install scipy"
    ]
    for compiler in case.compilers:
        (row,) = kernels.measure(case, built, compiler, "", Options(seconds=1e-4))
        assert (row["kernel"], row["target"]) == ("augment.article", compiler)
