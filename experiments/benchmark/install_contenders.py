"""Installs what the contenders of other frameworks run in, each a virtual environment of its own.

    python -m experiments.benchmark.install_contenders [orbit] [jax] [torch]

The environments are `.venv-contenders/<name>` in the repository's root, so that no pin of theirs
touches ours. Keras and Orbit run on the TensorFlow that runs us: Keras in our own environment,
which holds it already, and Orbit in one with the same TensorFlow, Keras and NumPy. One that cannot
be installed is one line at the end and exit status 1; the others are installed all the same.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import venv

from experiments.benchmark import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / ".venv-contenders"

# Each environment's pip invocations, in order. Orbit is part of tf-models-official, whose
# dependencies (vision, text, cloud clients) it does not need; it only needs tf_keras.
ENVIRONMENTS: dict[str, list[str]] = {
    "orbit": [
        "tensorflow=={tensorflow} keras=={keras} numpy=={numpy} tf_keras",
        "--no-deps tf-models-official==2.20.0",
    ],
    "jax": ["jax==0.10.2 optax==0.2.8"],
    "torch": ["torch==2.13.0 numpy"],
}


def interpreter(environment: str) -> pathlib.Path:
    """The Python of an environment, installed or not."""
    return DIRECTORY / environment / "bin" / "python"


def main(names: list[str]) -> int:
    """Installs the named environments, or all; returns the exit status."""
    unknown = sorted(set(names) - set(ENVIRONMENTS))
    if unknown:
        print(
            f"error: install_contenders: expected {', '.join(sorted(ENVIRONMENTS))}, found"
            f" {', '.join(unknown)}; to mend: correct the spelling, or name none for all",
            file=sys.stderr,
        )
        return 2
    failed = 0
    for name in names or ENVIRONMENTS:
        pip = [str(interpreter(name)), "-m", "pip", "install", "-q", "--no-input"]
        try:
            venv.create(DIRECTORY / name, with_pip=True)
            for arguments in ENVIRONMENTS[name]:
                subprocess.run([*pip, *arguments.format(**machine.versions()).split()], check=True)
            print(f"install_contenders: {name} is in {interpreter(name)}")
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"error: install_contenders: {name} failed: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
