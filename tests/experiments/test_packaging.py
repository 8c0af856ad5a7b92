"""What is shipped, under which licence, and how a bare machine is set up."""

from __future__ import annotations

import ast
import configparser
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kernels", "loop", "experiments")
# Of the text that apache.org publishes as LICENSE-2.0.txt.
APACHE_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
APACHE_BYTES = 11_358


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    """setup.cfg."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def _modules(package: str) -> Iterator[Path]:
    yield from (ROOT / package).rglob("*.py")


def test_license_is_apache_verbatim_and_names_the_digits() -> None:
    """LICENSE starts with the unchanged Apache-2.0 text and attributes the digits."""
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text[:APACHE_BYTES]).hexdigest() == APACHE_SHA256
    rest = text[APACHE_BYTES:].decode()
    for word in ("CC-BY-4.0", "Alpaydin", "Kaynak", "experiments/data/digits.npz"):
        assert word in rest


def test_packages_are_typed_and_carry_their_data(config: configparser.ConfigParser) -> None:
    """Each package has a py.typed that its package data names, and the digits are among them."""
    data = config["options.package_data"]
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
        assert "py.typed" in data[package].split()
    assert "digits.npz" in data["experiments.data"].split()


def test_every_folder_of_modules_is_a_package(config: configparser.ConfigParser) -> None:
    """A folder without __init__.py would be left out of a wheel in silence."""
    found = config["options.packages.find"]["include"].split()
    for package in PACKAGES:
        assert {package, f"{package}.*"} <= set(found)
        for module in _modules(package):
            assert (module.parent / "__init__.py").exists(), module


def test_the_benchmark_is_not_shipped(config: configparser.ConfigParser) -> None:
    """A wheel has what a user needs: no contender of a race, and nothing that imports one."""
    section = config["options.packages.find"]
    shipped = [
        ".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("*/**/__init__.py")
    ]
    for option, wanted in (("include", True), ("exclude", False)):
        patterns = section[option].split()
        shipped = [n for n in shipped if any(fnmatch(n, each) for each in patterns) is wanted]
    assert {"loop", "kernels", "experiments", "experiments.data"} <= set(shipped)
    assert not [name for name in shipped if name.startswith("experiments.benchmark")]
    for name in shipped:
        for module in (ROOT / name.replace(".", "/")).glob("*.py"):
            assert not [each for each in _imports(module) if ".benchmark" in each], module
    assert "scipy" in config["options.extras_require"]["bench"]


_SCRIPTS = {
    "tapestep-train": "usage: tapestep-train",
    "tapestep-launch": "Starts the workers",
    "tapestep-checkpoints": "usage: tapestep-checkpoints",
    "tapestep-sweep": "Runs a grid",
    "tapestep-replay": "Computes a step that was not finite",
}


def test_the_scripts_are_those_of_the_modules(config: configparser.ConfigParser) -> None:
    """The metadata has each script of setup.cfg, and each is a program of experiments."""
    listed = config["options.entry_points"]["console_scripts"].strip().splitlines()
    installed = {
        entry.name: entry.value
        for entry in metadata.distribution("tapestep").entry_points
        if entry.group == "console_scripts"
    }
    assert installed == dict(line.split(" = ") for line in listed)
    assert set(installed) == set(_SCRIPTS)


@pytest.mark.parametrize(("script", "said"), _SCRIPTS.items())
def test_each_script_runs(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` of each callable ends with 0, says how it is called, and asks for nothing more."""
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{script}", "--help"])
    (entry,) = metadata.entry_points(group="console_scripts", name=script)
    with pytest.raises(SystemExit) as ended:
        sys.exit(entry.load()())
    assert not ended.value.code
    assert said in capsys.readouterr().out


def test_a_started_program_is_ours_whatever_the_folder_holds(tmp_path: Path) -> None:
    """A user's own package `experiments` in the current folder does not stop a sweep."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise SystemExit('a foreign package')")
    program = "from experiments.sweep import cli; cli()"
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; del sys.path[0]; sys.path.append({str(ROOT)!r})\n" + program,
            "seed=1",
            "--model=mlp",
            "--steps=2",
            "--compile=eager",
            "--directory=swept",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "swept" / "seed=1" / "result.json").exists()


def test_python_versions_agree(config: configparser.ConfigParser) -> None:
    """Classifiers, python_requires and the Makefile name the same Pythons."""
    assert config["options"]["python_requires"] == ">=3.10,<3.14"
    for minor in range(10, 14):
        assert f"Python :: 3.{minor}" in config["metadata"]["classifiers"]
    makefile = (ROOT / "Makefile").read_text()
    assert "(3, 10) <= sys.version_info < (3, 14)" in makefile
    assert "expected Python 3.10 to 3.13" in makefile


def _imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_imports_run_one_way() -> None:
    """Experiments -> loop -> kernels -> tensorflow; absl's flags are read in experiments only."""
    forbidden = {
        "kernels": {"loop", "experiments", "absl", "keras"},
        "loop": {"experiments", "absl"},
        "experiments": set[str](),
    }
    for package in PACKAGES:
        for module in _modules(package):
            tops = {name.partition(".")[0] for name in _imports(module)}
            assert not tops & forbidden[package], module
            assert not tops & {"pickle", "cPickle", "dill", "cloudpickle", "shelve"}, module


def test_numpy_archives_are_read_without_pickles() -> None:
    """Every np.load says allow_pickle=False."""
    for package in PACKAGES:
        for module in _modules(package):
            for node in ast.walk(ast.parse(module.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and (node.func.value.id, node.func.attr) == ("np", "load")
                ):
                    given = {key.arg: key.value for key in node.keywords}
                    value = given.get("allow_pickle")
                    assert isinstance(value, ast.Constant), module
                    assert value.value is False, module


def _fake_python(path: Path, version: str, *, venv: bool, log: Path) -> None:
    """A python3 of a given version that notes its calls and makes a venv with itself in it."""
    major, minor = version.split(".")
    supported = (3, 10) <= (int(major), int(minor)) < (3, 14)
    path.write_text(
        f"""#!/bin/sh
echo "$@" >> {log}
case "$*" in
  --version) echo "Python {version}.0" ;;
  *"import venv, ensurepip"*) exit {0 if venv else 1} ;;
  *"3, 10"*) exit {0 if supported else 1} ;;
  *venv\\"*|*%d*) echo python{version}-venv ;;
  "-m venv .venv") mkdir -p .venv/bin && cp {path} .venv/bin/python ;;
esac
"""
    )
    path.chmod(0o755)


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and what it looks at."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("version", "venv", "said"),
    [
        ("3.11", False, "install Debian's package python3.11-venv"),
        ("3.9", True, "expected Python 3.10 to 3.13, found Python 3.9.0"),
        ("3.14", True, "expected Python 3.10 to 3.13, found Python 3.14.0"),
    ],
)
def test_make_says_what_a_bare_machine_lacks(
    checkout: Path, version: str, venv: bool, said: str
) -> None:
    """A Python that is too old or new, or has no venv, is one line that names the mend."""
    fake = checkout / "fake"
    _fake_python(fake, version, venv=venv, log=checkout / "log")
    ended = _make(checkout, "train", f"PYTHON={fake}")
    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[0]
    assert not (checkout / ".venv").exists()


def test_make_without_python_names_the_package(checkout: Path) -> None:
    """No python3 at all is said, not a shell's message."""
    ended = _make(checkout, "test", "PYTHON=/nowhere/python3")
    assert ended.returncode == 2
    assert "install Debian's package python3" in ended.stderr.splitlines()[0]


def test_make_installs_once(checkout: Path) -> None:
    """The second `make train` only trains; a changed setup.cfg installs again."""
    fake, log = checkout / "fake", checkout / "log"
    _fake_python(fake, "3.12", venv=True, log=log)
    trains = "-m experiments.train --steps=3"
    for installs in (1, 1):
        ended = _make(checkout, "train", f"PYTHON={fake}", "ARGS=--steps=3")
        assert ended.returncode == 0, ended.stderr
        calls = log.read_text().splitlines()
        assert sum("pip install" in call for call in calls) == installs
        assert calls[-1] == trains
    ended = _make(checkout, "test", f"PYTHON={fake}")
    assert "-m pytest -n 2" in log.read_text()
    assert log.read_text().count("pip install") == 2
    later = (checkout / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(checkout / "setup.cfg", (later, later))
    _make(checkout, "train", f"PYTHON={fake}")
    assert log.read_text().count("pip install") == 3


def test_ci_does_what_a_fresh_machine_does(tmp_path: Path) -> None:
    """CI runs the README's two commands, then the checks, and no other program."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "dirname").symlink_to(str(shutil.which("dirname")))
    for name in ("make", "apt-get", "sudo", "pip", "python3", "id"):
        (tools / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {log}\n')
        (tools / name).chmod(0o755)
    subprocess.run([tmp_path / ".ci" / "run"], env={"PATH": str(tools)}, check=True, timeout=30)
    assert log.read_text().splitlines() == ["make train", "make test", "make lint typecheck"]


def test_ci_stops_at_the_first_failure(tmp_path: Path) -> None:
    """A target that fails ends CI with its status."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "make").write_text("#!/bin/bash\n[[ $1 != test ]] || exit 3\n")
    (tmp_path / "make").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run([tmp_path / ".ci" / "run"], env=environment, check=False, timeout=30)
    assert ended.returncode == 3
