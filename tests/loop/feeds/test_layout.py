"""Which places of the global batch each replica computes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.feeds import layout


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_replicas_share_every_micro_batch_between_them(micro_size, replicas, accumulate):
    """Each place is computed once, within its micro-batch's contiguous slice, in equal shapes."""
    batch_size = micro_size * accumulate
    layouts = [
        layout(batch_size, replicas=replicas, replica=replica, accumulate=accumulate)
        for replica in range(replicas)
    ]
    assert len({found.positions.shape for found in layouts}) == 1
    assert len({found.mask is None for found in layouts}) == 1
    assert (layouts[0].mask is None) == (micro_size % replicas == 0)
    kept = [
        found.positions if found.mask is None else found.positions[found.mask] for found in layouts
    ]
    assert sorted(np.concatenate(kept).tolist()) == list(range(batch_size))
    for found in layouts:
        assert found.positions.dtype == np.int32
        pieces = found.positions.reshape(accumulate, -1)
        masks = (
            np.ones_like(pieces, bool) if found.mask is None else found.mask.reshape(pieces.shape)
        )
        for index, (piece, mask) in enumerate(zip(pieces, masks, strict=True)):
            assert np.all(piece[mask] // micro_size == index)
            assert np.all(np.diff(piece[mask]) == 1)
            assert np.all(piece[~mask] == 0)


def test_an_uneven_batch_written_out():
    """10 examples in 2 micro-batches over 3 replicas: 2, 2 and 1 examples of each, padded to 2."""
    found = layout(10, replicas=3, replica=2, accumulate=2)
    assert found.positions.tolist() == [4, 0, 9, 0]
    assert found.mask.tolist() == [True, False, True, False]
    assert layout(10, replicas=3, replica=1, accumulate=2).positions.tolist() == [2, 3, 7, 8]


def test_one_replica_has_no_mask():
    """A run on one replica computes the batch in order."""
    found = layout(6)
    assert found.positions.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.mask is None


@pytest.mark.parametrize(("batch_size", "accumulate"), [(10, 3), (0, 1), (-4, 2)])
def test_refuses_micro_batches_of_unequal_size(batch_size, accumulate):
    """Unequal micro-batches would weigh some examples more than others."""
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be a positive multiple"):
        layout(batch_size, accumulate=accumulate)
