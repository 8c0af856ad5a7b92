"""Rows of one index summed, in the forms that graph mode and XLA can compile."""

import numpy as np
import pytest
import tensorflow as tf

from kernels import sparse, target


def _run(compiler, rows, indices):
    def both(rows, indices):
        with target.tracing_for(compiler):
            slices = tf.IndexedSlices(rows, indices)
            summed, totals = sparse.sum_duplicates(slices), sparse.row_totals(slices)
            return (summed.values, summed.indices), (totals.values, totals.indices)

    if compiler != "eager":
        both = tf.function(both, jit_compile=compiler == "xla", autograph=False)
    return both(tf.constant(rows), tf.constant(indices))


@pytest.mark.parametrize("compiler", ["eager", "graph", "xla"])
@pytest.mark.parametrize("row_shape", [(), (3,), (2, 5)])
def test_rows_are_summed(compiler, row_shape):
    """Added up, the rows give the dense gradient; written, each holds its index's whole sum."""
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 6, 17).astype(np.int64)
    rows = rng.normal(0.5, 1, (17, *row_shape))
    dense = np.zeros((9, *row_shape))
    np.add.at(dense, indices, rows)
    (summed, summed_indices), (totals, total_indices) = _run(compiler, rows, indices)

    added, squares = np.zeros_like(dense), 0.0
    np.add.at(added, summed_indices.numpy(), summed.numpy())
    squares = np.sum(summed.numpy() ** 2)
    np.testing.assert_allclose(added, dense, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(squares, np.sum(dense**2), rtol=1e-13)

    assert set(total_indices.numpy()) == set(indices)
    np.testing.assert_allclose(totals, dense[total_indices.numpy()], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("compiler", ["graph", "xla"])
def test_no_rows_at_all(compiler):
    """An empty lookup gives empty rows."""
    (summed, _), (totals, _) = _run(compiler, np.zeros((0, 3)), np.zeros([0], np.int32))
    assert summed.shape == totals.shape == (0, 3)
