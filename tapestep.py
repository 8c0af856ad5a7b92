"""Whether the packages that Python finds as `loop`, `kernels` and `experiments` are tapestep's.

The names are common: PyPI has a distribution `kernels`, a research repository a folder
`experiments`. One that comes first on the path hides ours; one installed into the same folder
overwrites files of ours, and takes them along when it is uninstalled. What Python then says leads
nowhere, so each of the three packages calls `check` before it imports anything.

This file has a name that no other distribution has, lies beside the three, and needs the standard
library alone.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NoReturn

_FOLDER = Path(__file__).absolute().parent


def check(package: str, *needed: str) -> None:
    """Refuses foreign, overwritten and missing files in a package or in those that it needs.

    A file that was changed and that no other distribution has installed is the user's own business.

    Args:
      package: the package that is being imported.
      *needed: the others of ours that it imports.

    Raises:
      ImportError: names the files, the distribution that owns them, and what to do about it.
    """
    for name in (package, *needed):
        _check_place(package, name)
    _check_files(package, {package, *needed})


def _check_place(package: str, name: str) -> None:
    """Refuses a package `name` that lies elsewhere than beside this file."""
    found = _origin(name)
    own = _FOLDER / name / "__init__.py"
    if found is not None and os.path.realpath(found) == os.path.realpath(own):
        return
    if not own.exists():
        _refuse_missing(package, [own])
    if found is None:
        _refuse(
            package,
            expected=f"the package {name} of tapestep, from {own}",
            found="no package of that name on sys.path",
            mend=f"put {_FOLDER} on sys.path",
        )
    owners = _owners([found])
    _refuse(
        package,
        expected=f"the package {name} of tapestep, from {own}",
        found=f"{found} of {owners[0] if owners else 'no distribution'}, first on sys.path",
        mend=f"pip uninstall {_name(owners[0])}, or give tapestep an environment of its own"
        if owners
        else "rename that folder, or start Python where it is not on sys.path",
    )


def _origin(name: str) -> Path | None:
    """The `__init__.py` that `import name` runs or has run; None for a folder without one."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that somebody put into sys.modules by hand
        return Path(str(getattr(sys.modules[name], "__file__", "a module without a file")))
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _check_files(package: str, names: set[str]) -> None:
    """Refuses files of the packages `names` that are not as this distribution installed them."""
    records = list(_FOLDER.glob("tapestep-*.dist-info/RECORD"))
    if len(records) != 1:  # a checkout, installed or not
        return
    missing, changed = [], []
    for path, digest in _recorded(records[0]):
        if path.parts[0] not in names or not digest:
            continue
        try:
            content = (_FOLDER / path).read_bytes()
        except FileNotFoundError:
            missing.append(_FOLDER / path)
            continue
        if _sha256(content) != digest:
            changed.append(_FOLDER / path)
    if changed and (owners := _owners(changed)):
        _refuse(
            package,
            expected=f"{_listed(changed)} as tapestep installed it",
            found=f"that of {' and '.join(owners)}, installed over it",
            mend=f"pip uninstall {' '.join(map(_name, owners))}, then {_reinstall()}, "
            "and keep them in environments of their own",
        )
    if missing:
        _refuse_missing(package, missing)


def _refuse_missing(package: str, missing: list[Path]) -> NoReturn:
    _refuse(
        package,
        expected=f"{_listed(missing)} of tapestep",
        found="nothing there, as after uninstalling another distribution with a file of that name",
        mend=_reinstall(),
    )


def _refuse(package: str, *, expected: str, found: str, mend: str) -> NoReturn:
    message = f"{package}: expected {expected}, found {found}; to mend: {mend}"
    # With the name of the package, `python -m` prints the message in place of a traceback.
    raise ImportError(message, name=package)


def _listed(paths: list[Path]) -> str:
    return str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _reinstall() -> str:
    """The command that puts our files back."""
    source = "tapestep"
    for path in _FOLDER.glob("tapestep-*.dist-info/direct_url.json"):
        source = json.loads(path.read_bytes()).get("url", source)
    return f"pip install --force-reinstall --no-deps {source}"


def _recorded(record: Path) -> Iterator[tuple[Path, str]]:
    """The files that a RECORD lists, with their digest; "" for those that have none."""
    with record.open(newline="", encoding="utf-8") as file:
        for name, digest, _ in csv.reader(file):
            yield Path(name), digest


def _sha256(content: bytes) -> str:
    """As a RECORD has it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


def _owners(paths: list[Path]) -> list[str]:
    """The other distributions that have installed one of the files, as "name version"."""
    wanted = {os.path.realpath(path) for path in paths}
    owners = set()
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        # Read here: `Distribution.files` leaves out what is missing, in some Pythons.
        listed = distribution.read_text("RECORD") or ""
        if name != "tapestep" and any(
            os.path.realpath(str(distribution.locate_file(row[0]))) in wanted
            for row in csv.reader(listed.splitlines())
            if row
        ):
            owners.add(f"{name} {distribution.version}")
    return sorted(owners)


def _name(owner: str) -> str:
    return owner.split()[0]
