"""What the cases of the replica tests train, and what they record of it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

import kernels
import loop
from kernels import clipping
from loop import layers, optimizers, step_context
from loop.distribute import Replicas

_SIZE = 61  # prime: batches lie across epochs
_SEED = 11
_CLASSES = 3
_TOKENS = 9


@dataclasses.dataclass(frozen=True)
class Case:
    """One training, all but its replicas.

    Attributes:
      name: of its results.
      steps: how many.
      dtype: of data and variables.
      mode: the compile mode.
      model: "mlp", "cnn" or "embedding".
      optimizer: "momentum" or "adam".
      accumulate: micro-batches in a batch.
      batch_norm: "none", "replica" or "synchronized".
      batch_size: examples in the global batch.
      clip: whether the global norm is clipped, at a limit that most steps reach.
      permuted: the batch's examples in another order, each with its own random bits: the same
        sums, otherwise rounded.
      poison: the example whose image is infinite; -1 for none.
      stepwise: record the state of every step; a run on several replicas starts each from these.
      control_of: the stepwise case from whose states each step starts, on one replica too.
      bits: lay open the ids and random bits of the first steps.
      evaluated: also evaluate the trained model.
      cut: stop there and go on with a new trainer from the checkpoint; 0 for not.
    """

    name: str
    steps: int = 100
    dtype: str = "float64"
    mode: str = "graph"
    model: str = "mlp"
    optimizer: str = "momentum"
    accumulate: int = 1
    batch_norm: str = "none"
    batch_size: int = 16
    clip: bool = True
    permuted: bool = False
    poison: int = -1
    stepwise: bool = False
    control_of: str = ""
    bits: bool = False
    evaluated: bool = False
    cut: int = 0


class Net(loop.Module):
    """One hidden layer of the case's kind, BatchNorm or ReLU, dropout, logits."""

    def __init__(self, case: Case, dtype: tf.DType) -> None:
        common: dict[str, Any] = {"seed": _SEED, "dtype": dtype}
        normed = case.batch_norm != "none"
        self.model = case.model
        if case.model == "cnn":
            self.first: Any = layers.Conv2D(1, 4, 3, name="first", bias=not normed, **common)
            inputs = 4 * 3 * 3
        else:
            self.first = layers.Dense(36, 10, name="first", bias=not normed, **common)
            inputs = 10
        if case.model == "embedding":
            self.table = layers.Embedding(_TOKENS, 10, name="embedding", deviation=0.5, **common)
        self.norm = (
            layers.BatchNorm(
                4 if case.model == "cnn" else 10,
                name="norm",
                momentum=0.8,
                relu=True,
                synchronized=case.batch_norm == "synchronized",
                dtype=dtype,
            )
            if normed
            else None
        )
        self.dropout = layers.Dropout(0.3, name="dropout")
        self.logits = layers.Dense(inputs, _CLASSES, name="logits", gain=1.0, **common)

    def __call__(self, batch: dict[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        """Logits [B, classes]."""
        x = batch["image"]
        x = self.first(x if self.model == "cnn" else tf.reshape(x, [-1, 36]))
        if self.model == "embedding":
            x += tf.reduce_sum(self.table(batch["tokens"]), 1)
        x = tf.nn.relu(x) if self.norm is None else self.norm(x, training=training)
        if self.model == "cnn":
            x = kernels.max_pool2d(x, 2)
        x = tf.reshape(x, [x.shape[0], -1])
        return self.logits(self.dropout(x, training=training))


def data(case: Case) -> dict[str, Any]:
    """Images, labels, tokens and the examples' ids."""
    rng = np.random.default_rng(5)
    image = rng.normal(0.4, 1.1, [_SIZE, 6, 6, 1]).astype(case.dtype)
    if case.poison >= 0:
        image[case.poison] = np.inf
    return {
        "image": image,
        "label": rng.integers(0, _CLASSES, _SIZE).astype(np.int32),
        "tokens": rng.integers(0, _TOKENS, [_SIZE, 4]).astype(np.int32),
        "id": np.arange(_SIZE, dtype=np.int32),
    }


def _augmented(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    context = step_context.current("augmentation")
    augment = kernels.Augmentation(
        rotation=20.0, width_shift=0.1, shear=5.0, zoom=0.2, horizontal_flip=True
    )
    image = augment(
        batch["image"],
        seed=context.seed,
        step=context.global_step,
        positions=context.positions,
    )
    return {**batch, "image": image}


def feed(case: Case) -> loop.feeds.Arrays:
    """The case's batches, augmented in the step."""
    return loop.feeds.Arrays(
        data(case), batch_size=case.batch_size, seed=_SEED, transform=_augmented
    )


def _permuted(batch: dict[str, tf.Tensor], context: Any) -> tuple[dict[str, tf.Tensor], Any]:
    size = context.positions.shape[0]
    order = tf.constant(np.random.default_rng(8).permutation(size))
    moved = {name: tf.gather(value, order) for name, value in batch.items()}
    return moved, dataclasses.replace(context, positions=tf.gather(context.positions, order))


def loss_function(net: Net, case: Case) -> Any:
    """Cross-entropy an example, and whether it was right."""

    def loss(batch: dict[str, tf.Tensor]) -> Any:
        context = step_context.current("loss")
        if case.permuted:
            batch, context = _permuted(batch, context)
        with step_context.within(context):
            logits = net(batch, training=True)
        right = tf.equal(tf.argmax(logits, -1, tf.int32), batch["label"])
        losses = kernels.softmax_cross_entropy(batch["label"], logits)
        return losses, {"accuracy": tf.cast(right, logits.dtype)}

    return loss


class Bits:
    """A step that trains nothing: it lays open the ids and random bits of the global batch.

    Attributes:
      variables: by name; after a step its ids, augmented images and dropout mask, by position.
    """

    def __init__(self, case: Case, net: Net) -> None:
        self.accumulate = case.accumulate  # the loop then gives the replicas the same places
        self._net = net
        shapes = {"ids": [], "image": [6, 6, 1], "kept": [7]}
        self.variables = {
            name: tf.Variable(tf.zeros([case.batch_size, *shape], tf.float64), name=f"bits/{name}")
            for name, shape in shapes.items()
        }

    def __call__(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds up what the replicas hold: each position is held by one of them."""
        context = step_context.current("bits")

        def laid_out(batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
            size = context.positions.shape[0]
            kept = self._net.dropout(tf.ones([size, 7], tf.float64), training=True)
            found = {"ids": batch["id"], "image": batch["image"], "kept": kept}
            return [self._global(found[name], context) for name in self.variables]

        totals = context.sum_over_replicas(context.region(laid_out)(batch))
        for variable, total in zip(self.variables.values(), totals, strict=True):
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=total)
        return {"one": tf.constant(1.0)}

    @staticmethod
    def _global(value: tf.Tensor, context: Any) -> tf.Tensor:
        value = tf.cast(value, tf.float64)
        if context.mask is not None:
            mask = tf.reshape(context.mask, [-1] + [1] * (value.shape.rank - 1))
            value = tf.where(mask, value, tf.zeros([], tf.float64))
        places = context.positions[:, None]
        return tf.scatter_nd(places, value, [context.batch_size, *value.shape[1:]])


class RecordedClip:
    """Clips by the global norm, noting what kinds of gradients came."""

    def __init__(self, limit: float) -> None:
        self.kinds: list[str] = []
        self._clip = clipping.ClipByGlobalNorm(limit)

    def __call__(self, gradients: Any, variables: Any) -> clipping.Clipped:
        """See `clipping.ClipByGlobalNorm`."""
        self.kinds = [type(gradient).__name__ for gradient in gradients]
        return self._clip(gradients, variables)


class Logged(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line."""
        self.lines.append(record.getMessage())


class Training:
    """A case's trainer on some replicas."""

    def __init__(
        self, case: Case, replicas: Replicas, directory: pathlib.Path | None = None
    ) -> None:
        dtype = tf.as_dtype(case.dtype)
        self.case = case
        self.replicas = replicas
        self.rows: list[Any] = []
        self.clip = RecordedClip(0.5 if case.clip else 1e9)
        with replicas.scope():
            self.net = Net(case, dtype)
            if case.optimizer == "adam":
                self.optimizer: Any = optimizers.Adam(0.01)
            else:
                self.optimizer = optimizers.Momentum(0.05, momentum=0.9)
            step = loop.GradientStep(
                loss_function(self.net, case),
                self.net.trainable_variables,
                self.optimizer,
                clip=self.clip,
                accumulate=case.accumulate,
            )
        self.trainer = loop.Trainer(
            step=step,
            feed=feed(case),
            state={"model": self.net, "optimizer": self.optimizer},
            directory=directory,
            compile=case.mode,
            steps_per_call=25,
            replicas=replicas,
            writers=[self.rows.append],
            on_nonfinite="skip",
        )

    def state(self) -> dict[str, Any]:
        """Name -> value on this worker's first replica."""
        return {name: variable.numpy() for name, variable in self.trainer.state.items()}

    def put(self, values: dict[str, Any]) -> None:
        """Assigns a state, on every replica."""
        for name, variable in self.trainer.state.items():
            variable.assign(values[name])

    def copies_differ(self) -> list[str]:
        """The variables that are not the same, to the bit, on all replicas of this worker."""
        if self.replicas.strategy is None:
            return []
        local = self.replicas.strategy.experimental_local_results
        return [
            name
            for name, variable in self.trainer.state.items()
            if len({copy.numpy().tobytes() for copy in local(variable)}) != 1
        ]

    def table(self) -> dict[str, Any]:
        """Column -> values of all steps."""
        return {
            name: np.concatenate([rows[name] for rows in self.rows])
            for name in self.rows[0].columns
        }

    def collectives(self) -> Counter[str]:
        """How many collectives of each kind one replica has in a step, from the traced graph."""
        local = len(self.replicas.local_ids)
        found = Counter(
            kind
            for kind in self.trainer.compiled_loop().operations()
            if "Collective" in kind or "AllReduce" in kind
        )
        assert all(number % local == 0 for number in found.values()), found
        return Counter({kind: number // local for kind, number in found.items()})


@contextlib.contextmanager
def logged() -> Any:
    """What the loop logs inside the block."""
    handler = Logged()
    logger = logging.getLogger("loop")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)
