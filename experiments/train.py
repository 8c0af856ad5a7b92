"""Trains a classifier from the command line.

    tapestep-train                    # or python -m experiments.train, as below
    python -m experiments.train --dataset=fashion_mnist --model=cnn --epochs=5
    python -m experiments.train --flagfile=runs/a/flags.txt

The default job trains a small convolutional network on the digits that the package ships. It makes
a fresh run's directory with `flags.txt` (reproduces the run), `metrics.jsonl` (a line a step),
checkpoints, and `result.json`. The same command with that `--directory` again goes on from the
newest checkpoint.

Exit status: 0 done; 2 bad input (one line on stderr); 1 the run failed (not finite, a lost worker,
a full disk), or its results could not be shown; 143, 130 and 129 stopped by SIGTERM, SIGINT and
SIGHUP after a checkpoint.
"""

from __future__ import annotations

import functools
import time

from experiments import flags, sweep
from experiments.data import datasets
from experiments.entry import tensorflow_import
from experiments.entry.run_main import run_main


def main(argv: list[str]) -> int:
    """Checks flags and data, then trains; returns the exit status."""
    began = time.monotonic()
    settings = flags.parse(argv)
    if settings.sweep:
        return sweep.run(argv, settings)
    data = datasets.load(
        settings.dataset, settings.data_dir, fetch_missing=settings.download, report=print
    )
    # TensorFlow takes seconds to import: what can be refused before that, is.
    settings.total_steps(len(data.train_images))
    with tensorflow_import.without_banner(show=settings.debug):
        from experiments.training import training_run
    return training_run.run(settings, data, began=began)


cli = functools.partial(run_main, main)

if __name__ == "__main__":
    cli()
