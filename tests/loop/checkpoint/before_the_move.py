"""The run whose checkpoints `files/before_the_move` holds, as the code before the move wrote them.

They were written at commit cc46500, with this file copied into the same folder of a checkout of it:

    python -m tests.loop.checkpoint.before_the_move DIRECTORY

It uses only names that users have, so that the code before and after the move can both run it. It
has no BatchNorm: a commit between the two changed how that one sums.
"""

import shutil
import sys

import numpy as np
import tensorflow as tf

import loop
from loop import layers

CUT = 12
END = 40


class _Model(loop.Module):
    """Dense with ReLU, dropout, Dense: one output an example."""

    def __init__(self):
        self.hidden = layers.Dense(3, 4, name="hidden", seed=1)
        self.dropout = layers.Dropout(0.25, name="dropout")
        self.out = layers.Dense(4, 1, name="out", seed=1)

    def __call__(self, x):
        hidden = tf.nn.relu(self.hidden(x))
        return self.out(self.dropout(hidden, training=True))[:, 0]


def trainer(directory):
    """The run in graph mode: Adam with its slots, a schedule that decays, a shuffled feed."""
    rng = np.random.default_rng(5)
    x = rng.normal(1.0, 2.0, (23, 3)).astype(np.float32)
    y = (x @ np.array([0.5, -2.0, 1.0])).astype(np.float32)
    model = _Model()
    optimizer = loop.optimizers.Adam(
        loop.schedules.exponential_decay(0.03, decay_steps=10, decay_rate=0.8)
    )

    def loss(batch):
        return (model(batch["x"]) - batch["y"]) ** 2

    return loop.Trainer(
        step=loop.GradientStep(loss, model.trainable_variables, optimizer),
        feed=loop.feeds.Arrays({"x": x, "y": y}, batch_size=6, seed=9),
        state={"model": model, "optimizer": optimizer},
        directory=directory,
        compile="graph",
        steps_per_call=5,
    )


def main():
    """Writes the checkpoint where the run is to be cut, and the one where it ended uncut."""
    directory = sys.argv[1]
    shutil.rmtree(directory, ignore_errors=True)
    with trainer(directory) as run:
        run.train(until=CUT)
        run.train(until=END)


if __name__ == "__main__":
    main()
