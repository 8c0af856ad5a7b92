"""The README: its commands run, its loops train."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import loop
from experiments import train
from tests.experiments.data import data_files

_ROOT = pathlib.Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", _README, re.DOTALL)


_COMMANDS = [line for block in _blocks("sh") for line in block.splitlines()]
# In order, so that a command finds what one before it wrote.
_PYTHON = [line for line in _COMMANDS if line.startswith("python ")]
_PYTHON += re.findall(r"`(python -m experiments[^`]*)`", _README)


def _shortened(command, data_dir):
    """The command's arguments with few steps, and virtual devices where it asks for GPUs.

    A data set that is not shipped is read from `data_dir`: a machine may lack it. What is tested
    is that each command runs; what it reaches is in the tests of its part.
    """
    words = [w for w in shlex.split(command)[1:] if not w.startswith(("--epochs=", "--steps=500"))]
    if "experiments.train" in words and not any(
        w.startswith(("--steps=", "--help")) for w in words
    ):
        words.append("--steps=3")
    if "--strategy=mirrored" in words and not any("--virtual" in word for word in words):
        words.append("--virtual_devices=2")
    if any(w.startswith("--dataset=") and w != "--dataset=digits" for w in words):
        words.append(f"--data_dir={data_dir}")
    return words


def _needs_a_process(words):
    """Whether the command is not one plain training: another program, a strategy, or its help."""
    return words[1] != "experiments.train" or "--help" in words or "--strategy" in " ".join(words)


def test_every_make_target_exists():
    """Each `make` command of the README names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in _COMMANDS if line.startswith("make ")}
    named |= set(re.findall(r"`make ([a-z-]+)`", _README))
    assert {"train", "test"} <= named <= targets


def test_every_named_test_exists():
    """What the README says that a test shows is in a file of that name."""
    named = re.findall(r"tests/[\w/]+\.py", _README)
    assert len(named) >= 3
    assert [path for path in named if not (_ROOT / path).exists()] == []


def test_every_python_command_runs(tmp_path, monkeypatch, capsys):
    """Each command of the README ends with status 0, in the README's order."""
    monkeypatch.chdir(tmp_path)
    folders = [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    environment = {"PATH": os.pathsep.join(folders), "PYTHONPATH": str(_ROOT)}
    data_files.write_mnist(tmp_path / "data", train_count=150)  # the default batch is 128
    assert len(_PYTHON) >= 25
    for command in _PYTHON:
        words = _shortened(command, tmp_path / "data")
        if words == ["-m", "experiments.train", "--strategy=multi_worker", "--steps=3"]:
            continue  # what the launcher's command runs, on two workers
        if _needs_a_process(words):
            done = subprocess.run(
                [sys.executable, *words],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        else:
            assert train.main(words[1:]) == 0, f"{command}: {capsys.readouterr().err[-2000:]}"


def test_first_loop_trains_and_resumes(tmp_path, monkeypatch):
    """The README's first loop runs as it stands, learns, and goes on from its checkpoint."""
    monkeypatch.chdir(tmp_path)
    program = next(block for block in _blocks("python") if "trainer.train(until=500)" in block)
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    rows = names["trainer"].rows
    assert rows["loss"][-1] < 0.3
    assert int(names["trainer"].global_step) == 500
    names = {}
    exec(compile(program.replace("until=500", "until=502"), "README.md", "exec"), names)
    lines = (tmp_path / "runs/first/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 503))
    assert names["trainer"].meter.steps == 2


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_gan_step_runs(mode):
    """The README's step with two optimizers trains both models, compiled."""
    program = next(block for block in _blocks("python") if "def gan_step" in block)
    generator = loop.layers.Dense(3, 5, name="generator", seed=1)
    critic = loop.layers.Dense(5, 1, name="critic", seed=2)
    names = {"tf": tf, "loop": loop, "generator": generator, "critic": critic}
    for name, model in (("generator", generator), ("critic", critic)):
        optimizer = loop.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
        names[f"{name}_optimizer"] = optimizer
    exec(compile(program, "README.md", "exec"), names)
    rng = np.random.default_rng(1)
    feed = loop.feeds.Arrays(
        {
            "noise": rng.normal(size=(40, 3)).astype(np.float32),
            "image": rng.normal(3, 2, size=(40, 5)).astype(np.float32),
        },
        batch_size=8,
    )
    owned = ("generator", "critic", "generator_optimizer", "critic_optimizer")
    owners = {key: names[key] for key in owned}
    before = generator.kernel.numpy(), critic.kernel.numpy()
    trainer = loop.Trainer(step=names["gan_step"], feed=feed, state=owners, compile=mode)
    trainer.train(until=3)
    assert trainer.rows.columns == ("critic_loss", "generator_loss", "finite")
    assert not np.array_equal(before[0], generator.kernel.numpy())
    assert not np.array_equal(before[1], critic.kernel.numpy())
