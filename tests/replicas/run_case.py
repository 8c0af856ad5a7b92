"""Trains cases on some replicas and writes what they did; a process, since it has one strategy.

    python -m tests.replicas.run_case '{"replicas": 2, "out": "FOLDER", "cases": [{"name": "a"}]}'

For each case it writes FOLDER/NAME-REPLICAS.npz (rows, state, bits) and .json (what else it saw).
`"replicas": 0` takes the workers from TF_CONFIG, and REPLICAS is then "workers". Of a case recorded
step by step, a run on several replicas starts each step from what one replica left in FOLDER.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

import loop
from loop import distribute
from loop.distribute import Replicas
from tests.replicas.cases import Bits, Case, Training, feed, logged

_BITS_STEPS = 3


def _replicas(count: int) -> Replicas:
    if count == 0:
        return distribute.multi_worker()
    return distribute.single() if count == 1 else distribute.mirrored(virtual_devices=count)


def _bits(training: Training) -> dict[str, Any]:
    """Ids, images and masks of the first steps' global batches."""
    with training.replicas.scope():
        bits = Bits(training.case, training.net)
    trainer = loop.Trainer(
        step=bits,
        feed=feed(training.case),
        state={"bits": bits.variables},
        compile=training.case.mode,
        replicas=training.replicas,
    )
    found: dict[str, Any] = {}
    for step in range(_BITS_STEPS):
        trainer.train(until=step + 1)
        for name, variable in bits.variables.items():
            found[f"bits/{step}/{name}"] = variable.numpy()
    return found


def _stacked(states: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"states/{name}": np.stack([state[name] for state in states]) for name in states[0]}


def _every_state(training: Training) -> dict[str, Any]:
    """The state before the first step and after each, of a run."""
    states = [training.state()]
    for step in range(training.case.steps):
        training.trainer.train(until=step + 1)
        states.append(training.state())
    return _stacked(states)


def _step_by_step(training: Training, reference: Any) -> dict[str, Any]:
    """The state after each step, every one started from the reference's state before it."""
    states = []
    for step in range(training.case.steps):
        training.put({name: reference[f"states/{name}"][step] for name in training.trainer.state})
        training.trainer.train(until=step + 1)
        states.append(training.state())
    first = {name: reference[f"states/{name}"][0] for name in training.trainer.state}
    training.put(first)
    training.rows.clear()
    return _stacked([first, *states])


def _run(case: Case, replicas: Replicas, out: pathlib.Path) -> None:
    single = replicas.count == 1
    training = Training(case, replicas)
    found: dict[str, Any] = {}
    if case.stepwise and single and not case.control_of:
        found |= _every_state(training)
    elif case.stepwise:
        reference = np.load(out / f"{case.control_of or case.name}-1.npz")
        found |= _step_by_step(training, reference)
    training.trainer.train(until=case.steps)
    found |= {f"state/{name}": value for name, value in training.state().items()}
    found |= {f"row/{name}": value for name, value in training.table().items()}
    if case.bits:
        found |= _bits(training)
    seen: dict[str, Any] = {
        "replicas": replicas.count,
        "collectives": training.collectives(),
        "kinds": training.clip.kinds,
        "copies_differ": training.copies_differ(),
        "bytes_of_variables": sum(
            np.asarray(variable).nbytes for variable in training.net.trainable_variables
        ),
    }
    if case.cut:
        seen["log"], states = _cut(case, replicas, out)
        found |= states
    if case.evaluated:
        found |= _evaluated(training)
    name = f"{case.name}-{replicas.count if replicas.workers == 1 else 'workers'}"
    if replicas.is_chief:
        np.savez(out / f"{name}.npz", **found)
        (out / f"{name}.json").write_text(json.dumps(seen))


def _cut(case: Case, replicas: Replicas, out: pathlib.Path) -> tuple[list[str], dict[str, Any]]:
    """Stops at `cut`, and goes on with new objects; on one replica with what the others left."""
    directory = out / f"{case.name}-run-{replicas.count}"
    found: dict[str, Any] = {}
    with logged() as lines:
        if replicas.count > 1:
            for until in (case.cut, case.steps):
                with Training(case, replicas, directory).trainer as trainer:
                    trainer.train(until=until)
            found |= {f"resumed/{n}": v.numpy() for n, v in trainer.state.items()}
            with Training(case, replicas, out / f"{case.name}-left").trainer as trainer:
                trainer.train(until=case.cut)
        else:
            resumed = Training(case, replicas, out / f"{case.name}-left")
            with resumed.trainer as trainer:
                trainer.train(until=case.steps)
            found |= {f"resumed/{n}": v.numpy() for n, v in trainer.state.items()}
            found |= {f"resumed_row/{n}": v for n, v in resumed.table().items()}
    return lines, found


def _evaluated(training: Training) -> dict[str, Any]:
    """Means over all examples in batches of 4, whose last one holds a single example."""
    case = training.case

    def values(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        logits = training.net(batch, training=False)
        return {"id": batch["id"], "top": tf.reduce_max(logits, -1)}

    plain = loop.feeds.Arrays(feed(case).arrays, batch_size=4)
    evaluation = loop.Evaluation(values, plain).compiled(case.mode, training.replicas)
    return {f"mean/{name}": np.asarray(value) for name, value in evaluation().items()}


def main(argument: str) -> None:
    """Runs the cases of the argument; see the module."""
    asked = json.loads(argument)
    replicas = _replicas(asked["replicas"])
    for case in asked["cases"]:
        _run(Case(**case), replicas, pathlib.Path(asked["out"]))


if __name__ == "__main__":
    main(sys.argv[1])
