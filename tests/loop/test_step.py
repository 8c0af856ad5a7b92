"""The stock step: one update in one order, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf

import kernels
import loop
from loop import layers, optimizers, step_context
from tests.loop import steps


def _batch(size=8, seed=5):
    return {
        name: tf.constant(array[:size]) for name, array in steps.arrays(size, seed=seed).items()
    }


def _linear(rate=0.1, **options):
    dense = layers.Dense(5, 1, name="linear", seed=4, dtype=tf.float64)

    def loss(batch):
        error = dense(batch["x"])[:, 0] - batch["y"]
        return error**2, {"absolute": tf.abs(error), "largest": tf.reduce_max(error)}

    return dense, loop.GradientStep(
        loss, dense.trainable_variables, optimizers.SGD(rate), **options
    )


def _net_step(accumulate=1, **options):
    net = steps.Net()
    optimizer = optimizers.Adam(0.05)
    step = loop.GradientStep(
        steps.squared_errors(net),
        net.trainable_variables,
        optimizer,
        accumulate=accumulate,
        **options,
    )
    return {**net.state, **optimizer.state}, step


def test_sgd_on_a_linear_model_is_numpys():
    """Ten updates of a linear model and every number of their rows follow from NumPy's gradient."""
    dense, step = _linear()
    kernel, bias = dense.kernel.numpy()[:, 0], 0.0
    for number in range(10):
        batch = _batch(seed=number)
        x, y = batch["x"].numpy(), batch["y"].numpy()
        error = x @ kernel + bias - y
        gradient = np.append(2 * error @ x, 2 * error.sum()) / len(y)
        with steps.inside(8, global_step=number):
            row = step(batch)
        assert list(row) == [
            *("loss", "learning_rate", "gradient_norm", "clipped", "finite"),
            *("absolute", "largest"),
        ]
        np.testing.assert_allclose(row["loss"], (error**2).mean(), rtol=1e-12)
        np.testing.assert_allclose(row["absolute"], np.abs(error).mean(), rtol=1e-12)
        np.testing.assert_allclose(row["largest"], error.max(), rtol=1e-12)
        np.testing.assert_allclose(row["gradient_norm"], np.linalg.norm(gradient), rtol=1e-12)
        assert row["learning_rate"] == np.float32(0.1)
        assert not row["clipped"]
        assert row["finite"]
        kernel, bias = kernel - 0.1 * gradient[:-1], bias - 0.1 * gradient[-1]
    np.testing.assert_allclose(dense.kernel[:, 0], kernel, rtol=1e-7)
    np.testing.assert_allclose(dense.bias, [bias], rtol=1e-7)


def test_the_clip_is_between_reduction_and_optimizer():
    """With two equal replicas the reduced gradient is what is clipped; the row has its norm."""
    halves = {name: tensor[:4] for name, tensor in _batch().items()}
    plain, step = _linear()
    before = plain.kernel.numpy()
    with steps.inside(4):
        norm = step(halves)["gradient_norm"].numpy()
    gradient = (before - plain.kernel.numpy()) / 0.1
    clipped, step = _linear(clip=kernels.ClipByGlobalNorm(norm / 4))
    doubled = lambda values: [2 * value for value in values]  # noqa: E731
    # A global batch of 8, of which this replica has 4 and the other one the same 4.
    with steps.inside(8, positions=np.arange(4), reduce=doubled):
        row = step(halves)
    np.testing.assert_allclose(row["gradient_norm"], norm, rtol=1e-12)
    assert row["clipped"]
    moved = (before - clipped.kernel.numpy()) / 0.1
    np.testing.assert_allclose(moved, gradient / 4, rtol=1e-6)


def test_accumulation_is_the_whole_batchs_update():
    """Without BatchNorm, 4 micro-batches give the update and row of one batch of 8."""
    results = []
    for accumulate in (1, 4):
        dense, step = _linear(accumulate=accumulate)
        with steps.inside(8):
            row = step(_batch())
        results.append(
            [
                dense.kernel.numpy(),
                dense.bias.numpy(),
                *(float(row[k]) for k in ("loss", "gradient_norm", "absolute")),
            ]
        )
    for one, four in zip(*results, strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-12)


def test_accumulation_takes_the_mean_of_the_micro_batches_statistics():
    """BatchNorm sees micro-batches, and its statistics move once a step, by their mean."""
    state, step = _net_step(accumulate=2)
    batch = _batch()
    h = batch["x"].numpy() @ state["dense/kernel"].numpy()
    mean = (h[:4].mean(0) + h[4:].mean(0)) / 2
    variance = (h[:4].var(0) + h[4:].var(0)) / 2
    with steps.inside(8):
        step(batch)
    np.testing.assert_allclose(state["norm/moving_mean"], 0.2 * mean, rtol=1e-9)
    np.testing.assert_allclose(state["norm/moving_variance"], 0.8 + 0.2 * variance, rtol=1e-9)
    assert state["update_count"].numpy() == 1


def test_accumulation_of_sparse_gradients():
    """An embedding's slices of all micro-batches reach the optimizer in one update."""
    tables = []
    for accumulate in (1, 3):
        embedding = layers.Embedding(5, 2, name="e", seed=1, deviation=1.0, dtype=tf.float64)
        step = loop.GradientStep(
            lambda batch, e=embedding: tf.reduce_sum(e(batch["id"]) ** 2, -1),
            embedding.trainable_variables,
            optimizers.SGD(0.5),
            accumulate=accumulate,
        )
        with steps.inside(6):
            step({"id": tf.constant([0, 3, 3, 1, 0, 3])})
        tables.append(embedding.table.numpy())
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-12)
    assert not np.allclose(tables[0][3], tables[0][4])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_variables_have_no_part_in_the_update(accumulate):
    """Norm, clip, check, sum over replicas: all are of the trained gradient, NumPy's."""
    head = tf.Variable([[0.5], [-0.2], [0.1], [0.3], [0.7]], name="head", dtype=tf.float64)
    backbone = tf.Variable([1.0], name="backbone", dtype=tf.float64)
    table = layers.Embedding(5, 2, name="e", seed=1, dtype=tf.float64).table
    unused = tf.Variable([3.0], name="unused", dtype=tf.float64)

    def loss(batch):
        error = (batch["x"] @ head)[:, 0] - batch["y"]
        slope = tf.reduce_sum(tf.sqrt(backbone - 1.0))  # 0 with an infinite gradient
        rows = tf.gather(table, tf.zeros([error.shape[0]], tf.int32))
        return error**2 + slope + 1e6 * tf.reduce_sum(rows - tf.stop_gradient(rows), -1)

    summed = []

    def reduce(values):
        summed.extend(values)
        return values

    clip = kernels.AdaptiveClip(0.01)
    variables = [unused, backbone, head, table]
    optimizer = optimizers.SGD(0.1, frozen=["backbone", "^e/", "unused"])
    step = loop.GradientStep(loss, variables, optimizer, clip=clip, accumulate=accumulate)
    start, batch = head.numpy(), _batch()
    others = [variable.numpy() for variable in (unused, backbone, table)]
    x, y = batch["x"].numpy(), batch["y"].numpy()
    gradient = 2 * x.T @ (x @ start[:, 0] - y) / len(y)
    norm = np.linalg.norm(gradient)
    limit = 0.01 * np.linalg.norm(start)
    assert norm > limit
    with steps.inside(8, reduce=reduce):
        _, found = step.gradients(batch)
        row = step(batch)
    assert list(found) == ["head"]
    np.testing.assert_allclose(found["head"][:, 0], gradient, rtol=1e-12)
    assert [tensor.shape for tensor in summed] == [(5, 1), ()]
    np.testing.assert_allclose(row["gradient_norm"], norm, rtol=1e-12)
    assert row["finite"]
    assert row["clipped"]
    expected = start[:, 0] - 0.1 * gradient * limit / norm
    np.testing.assert_allclose(head[:, 0], expected, rtol=1e-7)
    for old, variable in zip(others, (unused, backbone, table), strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_frozen_gradient_that_is_not_finite_stops_nothing(mode):
    """Case 02: the run goes on, in float16 without halving the loss scale."""
    for precision in (None, "mixed_float16"):
        head = tf.Variable([1.0, 1.0], name="head")
        backbone = tf.Variable([1.0], name="backbone")
        step = loop.GradientStep(
            lambda b, h=head, k=backbone: (
                (0.3 * tf.reduce_sum(h) + tf.reduce_sum(tf.sqrt(k - 1.0)))
                * tf.cast(b["x"], tf.float32)
            ),
            [head, backbone],
            optimizers.SGD(1.0, frozen=["backbone"]),
            clip=kernels.ClipByGlobalNorm(1.0),
            precision=precision,
        )
        trainer = loop.Trainer(
            step=step,
            feed=loop.feeds.Arrays({"x": np.ones(4, np.float32)}, batch_size=4),
            state={"head": head, "backbone": backbone},
            compile=mode,
        )
        trainer.train(until=1)
        assert trainer.rows["finite"][0] == 1.0
        np.testing.assert_allclose(trainer.rows["gradient_norm"], np.sqrt(0.18), rtol=1e-6)
        np.testing.assert_allclose(head, [0.7, 0.7], rtol=1e-6)
        if precision:
            assert trainer.rows["overflow"][0] == 0.0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_padding_counts_nowhere(accumulate):
    """Masked rows, whatever they hold, change neither loss, metrics, gradient nor statistics."""
    batch = _batch()
    keep = np.array([True, True, True, False] * 2)
    results = []
    for padding in (3.0, -50.0):
        state, step = _net_step(accumulate=accumulate)
        filled = {
            name: tf.constant(np.where(keep.reshape(-1, *[1] * (t.shape.rank - 1)), t, padding))
            for name, t in batch.items()
        }
        with steps.inside(12, positions=[0, 1, 2, 0, 6, 7, 8, 0], mask=keep):
            row = step(filled)
        results.append((steps.values(state), {name: float(value) for name, value in row.items()}))
    assert steps.same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    """One bad input leaves weights, slots, counts and statistics bit for bit as they were."""
    state, step = _net_step(clip=kernels.ClipByNorm(0.1))
    with steps.inside(8):
        assert step(_batch())["finite"]
    before = steps.values(state)
    batch = _batch(seed=6)
    x = batch["x"].numpy()
    x[3, 2] = bad
    with steps.inside(8, global_step=1):
        row = step({**batch, "x": tf.constant(x)})
    assert not row["finite"]
    assert not np.isfinite(row["loss"])
    assert steps.same(before, steps.values(state))


def test_a_gradient_that_is_not_finite_beside_a_finite_loss():
    """The square root's gradient at 0 is infinite: found though the loss is 0."""
    weight = tf.Variable([0.0], name="w")
    step = loop.GradientStep(
        lambda batch: tf.sqrt(weight[0]) * batch["x"], [weight], optimizers.SGD(0.1)
    )
    with steps.inside(2):
        row = step({"x": tf.constant([1.0, 2.0])})
    assert row["loss"] == 0
    assert not row["finite"]
    assert weight.numpy().tolist() == [0.0]


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_an_average_of_no_example_stays(weight):
    """A batch without a real example has no statistics: their value there is no 0 to move to."""
    slope, average = tf.Variable([2.0], name="slope"), tf.Variable([0.7, -1.3], name="average")

    def loss(batch):
        value, count = tf.constant([4.0, 5.0]), tf.constant(weight)
        step_context.current("loss").record(average, value, 0.9, count)
        return slope[0] * batch["x"]

    step = loop.GradientStep(loss, [slope], optimizers.SGD(0.1))
    with steps.inside(2):
        assert step({"x": tf.constant([1.0, 2.0])})["finite"]
    expected = [0.7, -1.3] if weight == 0 else [0.7 + 0.1 * 3.3, -1.3 + 0.1 * 6.3]
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-6)


def test_a_scalar_loss_is_the_mean_of_the_slice():
    """A loss already reduced gives the same update as the per-example one."""
    moved = []
    for reduce in (tf.identity, tf.reduce_mean):
        weight = tf.Variable([0.5, -1.0], name="w", dtype=tf.float64)
        step = loop.GradientStep(
            lambda batch, r=reduce, w=weight: r(tf.linalg.matvec(batch["x"][:, :2], w) ** 2),
            [weight],
            optimizers.SGD(0.1),
        )
        with steps.inside(8):
            row = step(_batch())
        moved.append([*weight.numpy(), float(row["loss"])])
    np.testing.assert_allclose(moved[1], moved[0], rtol=1e-12)


def test_what_is_wrong_is_said_while_tracing():
    """Each mistake in a loss function is one line that names it."""
    weight, unused = (tf.Variable([1.0], name=name) for name in ("w", "never_used"))

    def run(loss, variables=(weight,)):
        with steps.inside(3):
            loop.GradientStep(loss, list(variables), optimizers.SGD(0.1))(
                {"x": tf.constant([1.0, 2.0, 3.0])}
            )

    with pytest.raises(ValueError, match="no gradient of the loss reaches never_used"):
        run(lambda batch: batch["x"] * weight, (weight, unused))
    with pytest.raises(ValueError, match=r"'loss' has shape \(3, 1\); expected one value"):
        run(lambda batch: batch["x"][:, None] * weight)
    with pytest.raises(ValueError, match=r"'top' has shape \(2,\)"):
        run(lambda batch: (batch["x"] * weight, {"top": batch["x"][:2]}))
    with pytest.raises(
        ValueError, match="the metric 'finite' has the name of one of the row's own"
    ):
        run(lambda batch: (batch["x"] * weight, {"finite": batch["x"]}))


def test_what_is_wrong_is_said_at_construction():
    """No variables, no micro-batch, or an optimizer that belongs to other variables."""
    weight, other = tf.Variable([1.0], name="w"), tf.Variable([1.0], name="w")
    optimizer = optimizers.SGD(0.1)
    optimizer.build([other])
    for variables, options, message in [
        ([], {}, "variables is empty"),
        ([weight], {"accumulate": 0}, "accumulate must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            loop.GradientStep(lambda batch: batch, variables, optimizers.SGD(0.1), **options)
    with pytest.raises(ValueError, match="was built with 1 variables and now got 1 others"):
        loop.GradientStep(lambda batch: batch, [weight], optimizer)


def test_outside_a_loop_there_is_no_step():
    """Called by hand, a step says where it must run."""
    _, step = _linear()
    with pytest.raises(RuntimeError, match="GradientStep: called outside a training step"):
        step(_batch())
