"""Installs the peers of the steps race, each in a virtual environment of its own.

    python -m experiments.benchmark.install_peers [orbit] [jax] [torch]

The environments are `.venv-peers/<name>` in the repository's root, so that a peer's pins never
touch ours. Keras and Orbit run on the TensorFlow that runs us: Keras in our own environment, which
holds it already, and Orbit in one with the same TensorFlow, Keras and NumPy. A peer that cannot be
installed is one line at the end and exit status 1; the others are installed all the same.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / ".venv-peers"

# Each peer's pip invocations, in order. Orbit is part of tf-models-official, whose dependencies
# (vision, text, cloud clients) it does not need; it only needs tf_keras.
SAME = "{tensorflow} {keras} {numpy}"
PEERS: dict[str, list[str]] = {
    "orbit": [f"{SAME} tf_keras", "--no-deps tf-models-official==2.20.0"],
    "jax": ["jax==0.10.2 optax==0.2.8"],
    "torch": ["torch==2.13.0 numpy"],
}


def interpreter(peer: str) -> pathlib.Path:
    """The Python of a peer's environment, installed or not."""
    return DIRECTORY / peer / "bin" / "python"


def install(peer: str) -> None:
    """Makes the peer's environment and installs its packages.

    Raises:
      subprocess.CalledProcessError: when pip fails.
    """
    pins = {
        name: f"{name}=={importlib.metadata.version(name)}"
        for name in ("tensorflow", "keras", "numpy")
    }
    venv.create(DIRECTORY / peer, with_pip=True)
    for arguments in PEERS[peer]:
        command = [str(interpreter(peer)), "-m", "pip", "install", "-q", "--no-input"]
        subprocess.run([*command, *arguments.format(**pins).split()], check=True)


def main(peers: list[str]) -> int:
    """Installs the named peers, or all; returns the exit status."""
    unknown = sorted(set(peers) - set(PEERS))
    if unknown:
        print(
            f"error: install_peers: expected {', '.join(sorted(PEERS))}, found"
            f" {', '.join(unknown)}; to mend: correct the spelling, or name none for all",
            file=sys.stderr,
        )
        return 2
    status = 0
    for peer in peers or PEERS:
        try:
            install(peer)
            print(f"install_peers: {peer} is in {interpreter(peer)}")
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"error: install_peers: {peer} failed: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
