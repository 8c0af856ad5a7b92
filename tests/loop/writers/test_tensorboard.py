"""TensorBoard's own reader against what the writer wrote."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import loop
from loop.rows import Rows
from loop.writers.tensorboard import TensorBoard


class _Killed(BaseException):
    """No error that training answers: nothing more is done, as after a kill."""


def _read(directory):
    sizes = {"scalars": 0, "images": 0, "histograms": 0}
    accumulator = event_accumulator.EventAccumulator(str(directory), sizes)
    accumulator.Reload()
    return accumulator


def _scalars(accumulator, name):
    return {event.step: event.value for event in accumulator.Scalars(name)}


def _rows(first_step, table):
    return Rows(first_step, ("loss", "rate"), np.array(table, np.float64))


def test_every_step_is_a_point_of_each_curve(tmp_path):
    """Rows of two calls and an evaluation's results come back with their steps, NaN too."""
    board = TensorBoard(tmp_path / "new" / "run")
    board(_rows(0, [[2.5, 0.25], [float("nan"), 0.125]]))
    board(_rows(2, [[-1.5, 1e-30]]))
    board.scalars({"test/accuracy": 0.75}, 3)
    board.close()
    read = _read(tmp_path / "new" / "run")
    loss = _scalars(read, "loss")
    assert list(loss) == [1, 2, 3]
    assert (loss[1], loss[3]) == (2.5, -1.5)
    assert np.isnan(loss[2])
    assert _scalars(read, "rate") == {1: 0.25, 2: 0.125, 3: float(np.float32(1e-30))}
    assert _scalars(read, "test/accuracy") == {3: 0.75}


def test_a_resume_takes_back_what_a_killed_run_wrote(tmp_path, caplog):
    """A run killed after step 4 and resumed from step 2 has one curve, the resumed one's."""
    killed = TensorBoard(tmp_path)
    killed(_rows(0, [[float(step), 0] for step in range(1, 5)]))
    resumed = TensorBoard(tmp_path, step=2)
    resumed(_rows(2, [[30.0, 0]]))
    with caplog.at_level(logging.ERROR):
        assert _scalars(_read(tmp_path), "loss") == {1: 1.0, 2: 2.0, 3: 30.0}
    killed.close()
    resumed.close()


def test_images_are_the_batch_to_the_pixel(tmp_path):
    """Bytes are kept, fractions scaled and clipped, and no more are written than asked for."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, [3, 5, 7, 3]).astype(np.uint8)
    grey = rng.uniform(-0.2, 1.3, [4, 6, 2, 1]).astype(np.float32)
    board = TensorBoard(tmp_path)
    board.images("colours", colours, 4)
    board.images("grey", tf.constant(grey), 9, limit=2)
    board.close()
    read = _read(tmp_path)
    tags = [f"colours/{i}" for i in range(3)] + ["grey/0", "grey/1"]
    assert sorted(read.Tags()["images"]) == tags
    for number, tag in enumerate(tags):
        (event,) = read.Images(tag)
        found = tf.io.decode_png(event.encoded_image_string).numpy()
        expected = (
            colours[number]
            if number < 3
            else np.rint(np.clip(grey[number - 3].astype(np.float64), 0, 1) * 255)
        )
        assert np.array_equal(found, expected), tag
        assert (event.width, event.height) == (expected.shape[1], expected.shape[0])
        assert event.step == (4 if number < 3 else 9)


def test_histograms_count_every_finite_element(tmp_path):
    """Counts, range, sum and squares are NumPy's, of variables and integers alike."""
    rng = np.random.default_rng(1)
    weights = rng.normal(0.4, 2.0, [40, 30]).astype(np.float32)
    weights[3, 4] = np.inf
    board = TensorBoard(tmp_path)
    values = {"model/w": tf.Variable(weights), "steps": np.arange(7), "none": np.zeros(0)}
    board.histograms(values, 12)
    board.close()
    read = _read(tmp_path)
    assert sorted(read.Tags()["histograms"]) == ["model/w", "steps"]
    (event,) = read.Histograms("model/w")
    histogram, finite = event.histogram_value, weights[np.isfinite(weights)].astype(np.float64)
    assert event.step == 12
    assert (histogram.min, histogram.max) == (finite.min(), finite.max())
    assert histogram.num == sum(histogram.bucket) == 1199
    np.testing.assert_allclose(histogram.sum, finite.sum(), rtol=1e-12)
    np.testing.assert_allclose(histogram.sum_squares, (finite**2).sum(), rtol=1e-12)
    limits = np.array(histogram.bucket_limit)
    below = np.cumsum(histogram.bucket)
    assert below[31] == (finite < limits[31]).sum()


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 5, 7, 2)])
def test_what_is_no_batch_of_images_is_refused(tmp_path, shape):
    """One line that tells the shape."""
    with pytest.raises(ValueError, match=r"'x' has shape .*, expected images \[B, H, W, C\]"):
        TensorBoard(tmp_path).images("x", np.zeros(shape, np.float32), 0)


def test_a_trainers_own_steps_are_the_start(tmp_path):
    """Without `step=` a resume drops what a killed run wrote of later steps, and nothing else."""
    killed = TensorBoard(tmp_path)
    killed.images("first batch", np.zeros([1, 4, 4, 1]), 0)
    killed(_rows(0, [[float(step), 0] for step in range(1, 5)]))
    killed.evaluated(2, {"loss": 20.0, "matrix": [[1, 2]], "hard/loss": 7.0})
    killed.evaluated(4, {"loss": 40.0})
    resumed = TensorBoard(tmp_path)
    assert not resumed.path.exists()
    resumed.images("first batch", np.ones([1, 4, 4, 1]), 0)
    resumed(_rows(2, [[30.0, 0]]))
    resumed(_rows(3, [[31.0, 0]]))
    killed.close()
    resumed.close()
    read = _read(tmp_path)
    assert _scalars(read, "loss") == {1: 1.0, 2: 2.0, 3: 30.0, 4: 31.0}
    assert _scalars(read, "evaluation/loss") == {2: 20.0}
    assert _scalars(read, "hard/loss") == {2: 7.0}
    assert "evaluation/matrix" not in read.Tags()["scalars"]
    assert [event.step for event in read.Images("first batch/0")] == [0, 0]


@pytest.mark.parametrize("folder", ["", "tensorboard"])
def test_it_may_lie_inside_the_runs_directory(folder, tmp_path):
    """Also where a run was killed before its first checkpoint, and the files are all there is."""

    def trainer(board):
        weight = tf.Variable(1.0, name="weight")

        def step(batch):
            weight.assign_add(tf.reduce_mean(batch["x"]))
            return {"weight": weight}

        return loop.Trainer(
            step=step,
            feed=loop.feeds.Arrays({"x": np.ones([8], np.float32)}, batch_size=2),
            state=weight,
            directory=tmp_path / "run",
            compile="graph",
            writers=[board],
        )

    killed = trainer(TensorBoard(tmp_path / "run" / folder))
    assert not (tmp_path / "run").exists()

    def kill(_rows):
        raise _Killed

    killed._writers.append(kill)
    with pytest.raises(_Killed):
        killed.train(until=2)
    killed.close()
    with trainer(TensorBoard(tmp_path / "run" / folder)) as again:
        again.train(until=3)
    curve = _scalars(_read(tmp_path / "run" / folder), "weight")
    assert curve == {1: 2.0, 2: 3.0, 3: 4.0}
    with trainer(TensorBoard(tmp_path / "run" / folder)) as resumed:
        resumed.train(until=5)
    assert list(_scalars(_read(tmp_path / "run" / folder), "weight")) == [1, 2, 3, 4, 5]
