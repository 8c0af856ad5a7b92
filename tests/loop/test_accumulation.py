"""The parts of a step of one's own: equal to the bit to what `GradientStep` does with them."""

import numpy as np
import pytest
import tensorflow as tf

import kernels
import loop
from loop import layers, step_context
from tests.loop import steps

_UNTIL = 6


def _own_step(net, optimizer, *, accumulate, clip, precision=None, scale=None):
    """What GradientStep does, written by a user."""
    variables = net.trainable_variables
    loss_fn = steps.squared_errors(net)
    optimizer.build(variables)

    def step(batch):
        context = step_context.current("own step")
        factor = scale.read() if scale is not None else None

        def compute(piece):
            piece = precision.cast(piece) if precision is not None else piece
            with tf.GradientTape() as tape:
                losses, metrics = loss_fn(piece)
                loss = loop.mean_share(losses)
                scaled = loss if factor is None else loss * tf.cast(factor, loss.dtype)
            absolute = loop.mean_share(metrics["absolute"], "absolute")
            return tape.gradient(scaled, variables), loss, absolute

        gradients, loss, absolute = loop.accumulate(compute, batch, accumulate)
        *gradients, loss, absolute = loop.reduce_gradients([*gradients, loss, absolute])
        if factor is not None:
            gradients = loop.unscale_gradients(gradients, factor)
        clipped = loop.clip_gradients(gradients, variables, clip)
        finite = loop.all_finite([loss, clipped.norm])
        optimizer.apply(clipped.gradients, global_step=context.global_step, finite=finite)
        row = {"loss": loss, "gradient_norm": clipped.norm, "clipped": clipped.clipped}
        row |= {"finite": finite, "absolute": absolute}
        if factor is not None:
            row["loss_scale"] = factor
            row["overflow"] = scale.update(
                factor,
                loss_finite=tf.math.is_finite(loss),
                gradients_finite=tf.math.is_finite(clipped.norm),
            )
        return row

    step.accumulate = accumulate
    return step


def _trained(own, mode, *, accumulate=1, clip=None, precision=None, dtype=tf.float32):
    net = steps.Net(dropout=0.3, dtype=dtype)
    optimizer = loop.optimizers.Momentum(0.05)
    data = steps.arrays(dtype=dtype.as_numpy_dtype)
    feed = loop.feeds.Arrays(data, batch_size=8, seed=5)
    # Two of the first scaled gradients overflow, then it grows again.
    scale = None if precision is None else loop.LossScale(initial=2.0**17, growth_steps=2)
    if own:
        cast = None if precision is None else loop.Precision(precision)
        step = _own_step(
            net, optimizer, accumulate=accumulate, clip=clip, precision=cast, scale=scale
        )
    else:
        step = loop.GradientStep(
            steps.squared_errors(net),
            net.trainable_variables,
            optimizer,
            accumulate=accumulate,
            clip=clip,
            precision=precision,
            loss_scale=scale,
        )
    state = {"net": net, "optimizer": optimizer}
    if scale is not None and own:
        state["step"] = scale.state
    rows = []
    trainer = loop.Trainer(
        step=step, feed=feed, state=state, compile=mode, writers=[lambda r: rows.extend(r)]
    )
    trainer.train(until=_UNTIL)
    return rows, steps.values(trainer.state)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("clip", [None, kernels.ClipByGlobalNorm(0.7)], ids=["free", "clip"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_parts_make_a_gradient_step(mode, clip, accumulate):
    """Accumulated, reduced and clipped as there: the same rows, weights, slots and statistics."""
    options = {"accumulate": accumulate, "clip": clip, "dtype": tf.float64}
    rows, state = _trained(True, mode, **options)
    expected, of_gradient_step = _trained(False, mode, **options)
    assert [row.keys() | {"learning_rate"} for row in rows] == [row.keys() for row in expected]
    for row, other in zip(rows, expected, strict=True):
        # XLA fuses the two traces apart.
        assert row == pytest.approx({name: other[name] for name in row}, rel=1e-12)
    assert state.keys() == of_gradient_step.keys()
    for name, value in of_gradient_step.items():
        # Statistics are a mean that is divided and multiplied once more.
        np.testing.assert_allclose(state[name], value, rtol=1e-12, err_msg=name)
    moving = [name for name in state if "moving" in name]
    assert moving
    fresh = steps.values(loop.variables.named({"net": steps.Net(dtype=tf.float64)}))
    assert all(np.abs(state[name] - fresh[name]).max() > 1e-3 for name in moving)
    assert any(row["clipped"] for row in rows) == (clip is not None)


def test_a_loss_scale_in_a_step_of_ones_own():
    """Scaled, unscaled and moved as in a float16 GradientStep: an overflow skips the step there."""
    rows, state = _trained(True, "graph", precision="mixed_float16")
    expected, of_gradient_step = _trained(False, "graph", precision="mixed_float16")
    assert [row["loss_scale"] for row in rows] == [row["loss_scale"] for row in expected]
    assert {row["overflow"] for row in rows} == {0.0, 1.0}
    np.testing.assert_equal([row["loss"] for row in rows], [row["loss"] for row in expected])
    for name, value in of_gradient_step.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-6, err_msg=name)


def test_sparse_gradients_none_and_nests_are_added_up():
    """NumPy's sums over the micro-batches, of an embedding's rows too; None stays None."""
    table = layers.Embedding(7, 3, name="table", seed=1, dtype=tf.float64)
    (variable,) = table.trainable_variables
    ids = np.array([3, 1, 3, 0, 6, 3], np.int32)

    def function(piece):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(table(piece["ids"][0]) ** 2)
        return {"gradient": tape.gradient(total, variable), "none": None, "n": piece["ids"][1]}

    with steps.inside(6):
        found = loop.accumulate(function, {"ids": (tf.constant(ids), tf.constant(ids))}, 3)
    dense = np.zeros([7, 3])
    np.add.at(dense, ids, 2 * variable.numpy()[ids])
    assert isinstance(found["gradient"], tf.IndexedSlices)
    np.testing.assert_allclose(tf.convert_to_tensor(found["gradient"]), dense, rtol=1e-12)
    assert found["none"] is None
    assert found["n"].numpy().tolist() == ids.reshape(3, 2).sum(0).tolist()


def test_each_micro_batch_knows_its_place_and_padding():
    """Positions and mask are those of its examples, so a mean leaves padding out."""
    mask = [True, True, True, False]
    values = np.array([1.0, 2.0, 4.0, 100.0])
    seen = []

    def function(piece):
        seen.append(step_context.current("test").positions.numpy().tolist())
        return loop.mean_share(piece)

    with steps.inside(3, positions=[5, 6, 7, 8], mask=mask) as context:
        found = loop.accumulate(function, tf.constant(values), 2)
        assert context.moving_averages == []
    assert seen == [[5, 6], [7, 8]]
    assert float(found) == pytest.approx(7 / 3, rel=1e-12)


@pytest.mark.parametrize("count", [0, 4])
def test_a_number_that_does_not_divide_the_batch_is_refused(count):
    """With the number and how to mend it."""
    with steps.inside(6), pytest.raises(ValueError, match=f"slice of 6 .*found {count}; choose"):
        loop.accumulate(lambda piece: piece, tf.zeros([6]), count)


def test_a_clip_without_one_is_the_norm():
    """The gradients as they are, and NumPy's global norm."""
    gradients = [tf.constant([3.0, -4.0]), None, tf.constant([[12.0]])]
    clipped = loop.clip_gradients(gradients, [None] * 3)
    assert clipped.gradients == gradients
    assert (float(clipped.norm), bool(clipped.clipped)) == (13.0, False)
