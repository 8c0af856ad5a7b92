"""Other distributions and folders with our packages' names, installed and removed by pip for real.

The environments have no TensorFlow: that it is missing is what an import says that was let through.
"""

import base64
import hashlib
import importlib.util
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_LET_THROUGH = "No module named 'tensorflow'"


def _wheel(folder, name, version, files):
    """A wheel with these files, path -> content."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, content)
    return wheel


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A wheel of tapestep with the files that setup.cfg names."""
    paths = [_ROOT / "tapestep.py"]
    for package in ("kernels", "loop", "experiments"):
        paths += [p for p in (_ROOT / package).rglob("*") if p.suffix in (".py", ".typed", ".npz")]
    files = {path.relative_to(_ROOT).as_posix(): path.read_bytes() for path in paths}
    return _wheel(tmp_path_factory.mktemp("ours"), "tapestep", "0.1.0", files)


class _Environment:
    """A virtual environment without TensorFlow."""

    def __init__(self, folder):
        if not (folder / "venv").exists():
            venv.create(folder / "venv", with_pip=False)
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        self.site = next((folder / "venv").glob("lib/python*/site-packages"))

    def pip(self, command, *arguments):
        options = {"install": ["--no-index", "--no-compile"], "uninstall": ["--yes"]}[command]
        pip = [sys.executable, "-m", "pip", "--python", self.python, command]
        subprocess.run([*pip, *options, *arguments], check=True, capture_output=True, timeout=120)

    def run(self, *arguments, path=""):
        """The exit status, and what was said on stderr."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env={"PYTHONPATH": str(path), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stderr

    def error(self, name, **options):
        """The last line of what `import name` says; empty if nothing."""
        _, said = self.run("-c", f"import {name}", **options)
        return said.splitlines()[-1] if said else ""

    def mend(self, line):
        """Does what the line says."""
        for words in re.findall(r"pip ((?:un)?install [^,]*)", line.partition("; to mend: ")[2]):
            self.pip(*shlex.split(words))

    def is_sound(self):
        said = [self.error(name) for name in ("kernels", "loop", "experiments")]
        return _LET_THROUGH in said[0] and _LET_THROUGH in said[1] and said[2] == ""


@pytest.fixture(scope="module")
def installed(tmp_path_factory, ours):
    """An environment with tapestep alone, which is sound."""
    made = _Environment(tmp_path_factory.mktemp("installed"))
    made.pip("install", ours)
    assert made.is_sound()
    return made


@pytest.fixture
def environment(tmp_path, installed):
    """A copy of it, to change."""
    shutil.copytree(installed.folder / "venv", tmp_path / "venv", symlinks=True)
    return _Environment(tmp_path)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The wheel of another project named kernels."""
    files = {"kernels/__init__.py": b"THEIRS = 1\n", "kernels/layer.py": b""}
    return _wheel(tmp_path_factory.mktemp("kernels"), "kernels", "0.11.2", files)


def test_files_overwritten_by_another_distribution(environment, kernels):
    """Its name, the file and the mend, whichever of ours is first; the mend mends."""
    environment.pip("install", kernels)
    for code in ("loop", "experiments", "kernels, loop"):
        line = environment.error(code)
        package = code.split()[-1]
        assert line.startswith(f"ImportError: {package}: expected {environment.site}/kernels/__in")
        assert "found that of kernels 0.11.2, installed over it" in line
    # Theirs is imported first, and nothing of ours runs.
    assert environment.error("kernels; kernels.THEIRS") == ""
    environment.mend(line)
    assert environment.is_sound()


def test_files_taken_along_by_an_uninstallation(environment, kernels):
    """What is gone, and that an uninstallation does it; the mend mends."""
    environment.pip("install", kernels)
    environment.pip("uninstall", "kernels")
    assert not (environment.site / "kernels" / "__init__.py").exists()
    for code in ("loop", "experiments", "kernels, loop"):
        line = environment.error(code)
        assert f"expected {environment.site}/kernels/__init__.py of tapestep, found nothing" in line
        assert "uninstalling another distribution" in line
    environment.mend(line)
    assert environment.is_sound()


def test_ours_installed_over_another_is_sound(tmp_path, ours, kernels):
    """All our files are there, so nothing is said; removing theirs is."""
    environment = _Environment(tmp_path)
    environment.pip("install", kernels)
    environment.pip("install", ours)
    assert environment.is_sound()
    environment.pip("uninstall", "kernels")
    assert "kernels/__init__.py of tapestep, found nothing" in environment.error("loop")


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("kernels/random.py", {"kernels", "loop", "experiments"}),
        ("loop/__init__.py", {"experiments"}),
        ("loop/feeds/order.py", {"loop", "experiments"}),
        ("experiments/entry/errors.py", {"experiments"}),
    ],
)
def test_a_package_answers_for_what_it_imports(environment, tmp_path, file, named):
    """A file in any folder is noticed by the packages that need it, and by no other."""
    other = _wheel(tmp_path / "wheels", "research_code", "2.0", {file: b"import tensorflow\n"})
    environment.pip("install", other)
    for package in ("kernels", "loop", "experiments"):
        line = environment.error(package)
        assert (f"{package}: expected {environment.site}/{file}" in line) == (package in named)
        assert ("research_code 2.0" in line or "research-code 2.0" in line) == (package in named)


def test_all_owners_are_named(environment, kernels, tmp_path):
    """Two distributions are two to uninstall."""
    environment.pip("install", kernels)
    environment.pip("install", _wheel(tmp_path / "w", "jobs", "3", {"loop/errors.py": b""}))
    line = environment.error("loop")
    assert "and 1 more" in line
    assert "found that of jobs 3 and kernels 0.11.2" in line
    environment.mend(line)
    assert environment.is_sound()


def test_a_users_own_change_is_no_fault(environment):
    """A file that no other distribution has is the user's to edit."""
    with (environment.site / "kernels" / "random.py").open("a") as file:
        file.write("# mine\n")
    assert environment.is_sound()


def _folder(base, name):
    (base / name).mkdir(parents=True)
    (base / name / "__init__.py").write_text("THEIRS = 1\n")
    return base


def test_a_folder_that_comes_first_on_the_path(environment, tmp_path):
    """Its path, that no distribution owns it, and what to do; once it is imported, too."""
    first = _folder(tmp_path / "research", "kernels")
    for code in ("loop", "experiments", "kernels, loop"):
        line = environment.error(code, path=first)
        assert f"found {first}/kernels/__init__.py of no distribution, first on sys.path" in line
        assert f"expected the package kernels of tapestep, from {environment.site}" in line
        assert "rename that folder" in line
    line = environment.error("experiments", path=_folder(tmp_path / "other", "loop"))
    assert f"found {tmp_path}/other/loop/__init__.py of no distribution" in line


def test_another_distribution_that_comes_first_on_the_path(environment, kernels, tmp_path):
    """One in another folder, as beside an editable installation of ours, is named."""
    with zipfile.ZipFile(kernels) as archive:
        archive.extractall(tmp_path / "site")
    line = environment.error("loop", path=tmp_path / "site")
    assert f"found {tmp_path}/site/kernels/__init__.py of kernels 0.11.2, first on" in line
    assert "pip uninstall kernels" in line


def test_a_research_repository_has_its_own_experiments(environment, tmp_path):
    """The loop is used from a folder with another `experiments`, which it does not import."""
    repository = _folder(tmp_path / "research", "experiments")
    for code in ("loop", "experiments, loop"):
        assert _LET_THROUGH in environment.error(code, path=repository)


def test_a_folder_without_modules_hides_nothing(environment, tmp_path):
    """Python takes a package of ours before a bare folder of the same name."""
    (tmp_path / "research" / "kernels").mkdir(parents=True)
    assert _LET_THROUGH in environment.error("loop", path=tmp_path / "research")


def test_a_module_made_by_hand_is_not_ours(environment):
    """Whatever somebody has put into sys.modules, the answer is the line."""
    code = "import sys, types; sys.modules['kernels'] = types.ModuleType('kernels'); import loop"
    _, said = environment.run("-c", code)
    assert "found a module without a file of no distribution" in said.splitlines()[-1]


def test_a_binary_says_it_in_one_line(environment, kernels):
    """`python -m` prints the message without a traceback."""
    environment.pip("install", kernels)
    status, said = environment.run("-m", "experiments.train", "--help")
    assert status == 1
    assert len(said.splitlines()) == 1
    assert "found that of kernels 0.11.2, installed over it" in said


def test_the_checkout_is_ours():
    """From here, however tapestep is installed, the packages beside tapestep.py are found."""
    for name in ("tapestep", "kernels", "loop", "experiments"):
        assert importlib.util.find_spec(name).origin.startswith(str(_ROOT / name))
