"""The packages' edges: imports run one way, names are exported once, and all are described."""

import ast
import importlib
import inspect
import pathlib
import sys

import pytest

import experiments

_ROOT = pathlib.Path(__file__).parent.parent
_ORDER = ("kernels", "loop", "experiments")
_ABOVE = {package: set(_ORDER[place + 1 :]) for place, package in enumerate(_ORDER)}
# Programs that other frameworks' interpreters run to be compared with; they import no room of ours.
_CONTENDERS = "experiments/benchmark/contenders"


def _sources(package):
    return sorted((_ROOT / package).rglob("*.py"))


def _imported(path):
    """Every module that a file imports anywhere, as (line, dotted name)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("package", _ORDER)
def test_imports_run_one_way(package):
    """No file imports a room above its own, nor the tests."""
    forbidden = _ABOVE[package] | {"tests"}
    wrong = [
        f"{path.relative_to(_ROOT)}:{line}: {name}"
        for path in _sources(package)
        for line, name in _imported(path)
        if name.split(".")[0] in forbidden
    ]
    assert not wrong


def _files():
    """Dotted name -> path of every file of ours."""
    return {
        ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in _ORDER
        for path in _sources(package)
    }


def _arrows(path, files):
    """The files that one file imports; a package only where a name of its own is taken."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in files else node.module)
    return found & set(files)


def test_files_import_each_other_in_no_circle():
    """No file reaches itself by its imports, those for type checkers included."""
    files = _files()
    arrows = {name: _arrows(path, files) - {name} for name, path in files.items()}
    order, circles = [], []

    def visit(name, way):
        if name in way:
            circle = set(way[way.index(name) :])
            if circle not in circles:
                circles.append(circle)
            return
        if name in order:
            return
        for target in sorted(arrows[name]):
            visit(target, [*way, name])
        order.append(name)

    for name in sorted(files):
        visit(name, [])
    assert circles == []


# What users import from is as wide as what it offers; of the others each file is one of a list.
_WIDE_ROOMS = {
    "loop",
    "kernels",
    "loop/feeds",
    "loop/optimizers",
    "experiments/flags",
    "experiments/benchmark",
    "experiments/benchmark/contenders",
    "experiments/benchmark/measurements",
}


def test_no_room_is_a_corridor():
    """A package has at most ten entries at one level, but the ones named above."""
    wide = {}
    for package in _ORDER:
        for folder in {path.parent for path in _sources(package)}:
            entries = {
                child.name
                for child in folder.iterdir()
                if (child.suffix == ".py" or (child / "__init__.py").exists())
                and child.name != "__init__.py"
            }
            if len(entries) > 10:
                wide[folder.relative_to(_ROOT).as_posix()] = len(entries)
    assert set(wide) <= _WIDE_ROOMS, wide


def test_flags_are_read_in_experiments_alone():
    """Neither kernels nor loop imports absl."""
    wrong = [
        f"{path.relative_to(_ROOT)}:{line}"
        for package in ("kernels", "loop")
        for path in _sources(package)
        for line, name in _imported(path)
        if name.split(".")[0] == "absl"
    ]
    assert not wrong


def test_kernels_hold_no_state_and_no_files():
    """No kernel makes a variable, opens a file, or imports Keras or a module that does."""
    banned = {"keras", "os", "pathlib", "io", "json", "socket", "subprocess", "tempfile"}
    for path in _sources("kernels"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {name.split(".")[0] for _, name in _imported(path)}
        assert not names & banned, path
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not used & {"Variable", "open", "print", "input"}, path


def test_only_one_file_knows_keras():
    """In the loop only loop.keras imports Keras, and where it is met, not at the top."""
    importers = {
        path
        for path in _sources("loop")
        if any(name.split(".")[0] == "keras" for _, name in _imported(path))
    }
    assert {path.parent.name for path in importers} <= {"keras"}
    for path in importers:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        at_top = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {n for node in at_top for n in (getattr(node, "module", None), node.names[0].name)}
        assert "keras" not in {str(name).split(".")[0] for name in names}


def _packages():
    """Our packages that export names: all with an __all__."""
    for top in _ORDER:
        for path in _sources(top):
            if path.name == "__init__.py" and _CONTENDERS not in path.as_posix():
                dotted = ".".join(path.parent.relative_to(_ROOT).parts)
                yield dotted


_EXPORTING = [name for name in _packages() if hasattr(importlib.import_module(name), "__all__")]


def test_the_rooms_export_something():
    """The check below is not of nothing."""
    assert {"loop", "kernels", "loop.feeds", "loop.optimizers", "loop.schedules"} <= set(_EXPORTING)
    assert experiments.__doc__


@pytest.mark.parametrize("package", _EXPORTING)
def test_names_exist_are_sorted_and_stand_once(package):
    """__all__ names what is there, each name once."""
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert [name for name in module.__all__ if name.startswith("_")] == []


def test_each_symbol_has_one_home():
    """A class or function is exported by one package, under one name."""
    homes = {}
    for package in _EXPORTING:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                homes.setdefault(id(value), []).append(f"{package}.{name}")
    assert [names for names in homes.values() if len(names) > 1] == []


def _own_members(owner):
    for name, value in vars(owner).items():
        if name.startswith("_"):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield name, function


@pytest.mark.parametrize("package", _EXPORTING)
def test_every_public_name_is_described(package):
    """Every exported class, function and module, and every public method, has a docstring."""
    module = importlib.import_module(package)
    bare = []
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
            if not own or own.startswith(f"{name}("):  # a dataclass writes its signature there
                bare.append(name)
        if inspect.isclass(value):
            bare += [
                f"{name}.{member}"
                for member, function in _own_members(value)
                if not function.__doc__ and not _inherits_docstring(value, member)
            ]
    assert bare == []


def _inherits_docstring(owner, member):
    """Whether a base class of ours describes the method that `owner` overrides."""
    return any(
        getattr(vars(base).get(member), "__doc__", None)
        for base in owner.__mro__[1:]
        if base.__module__.split(".")[0] in _ORDER
    )


def test_every_file_says_what_it_is():
    """Each module of ours begins with a docstring."""
    bare = [
        str(path.relative_to(_ROOT))
        for package in _ORDER
        for path in _sources(package)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert bare == []


def test_the_guard_of_the_three_packages_needs_none_of_them():
    """tapestep.py runs before anything else of ours: it imports the standard library alone."""
    imported = {name.split(".")[0] for _, name in _imported(_ROOT / "tapestep.py")}
    assert imported <= set(sys.stdlib_module_names)
