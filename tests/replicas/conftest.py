"""Trains the pairwise cases once for all tests here, on whichever worker comes first."""

from __future__ import annotations

import fcntl
import os
import pathlib

import pytest

from tests.replicas import pairwise, runs


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder with the results of `pairwise.CASES`."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the workers of this session
    folder = base / "replicas"
    with open(base / "replicas.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            runs.run(folder, pairwise.CASES)
            (folder / "done").touch()
    return folder
