"""What the library offers: `__all__`, the snapshot of all public names, `@final`, docstrings.

Run as a program (`python -m tests.unit.test_exports`) it writes the snapshot anew.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from tests.unit.test_imports import PACKAGE, modules

SNAPSHOT = Path(__file__).with_name("public_names.txt")
REGENERATE = "python -m tests.unit.test_exports"

# Made to be subclassed; every other concrete class is final.
EXTENSION_POINTS = {
    "ApprovalMixin",
    "ClusterPatchWorkflow",
    "HostPatchWorkflow",
    "PatchActivities",
    "SystemPatchWorkflow",
}

# `demo` is a program; a part with an underscore is private.
ROOMS = [
    name
    for name in modules()
    if name != PACKAGE
    and not any(part.startswith("_") for part in name.split("."))
    and name.split(".")[1] != "demo"
]


def room(name: str) -> ModuleType:
    """Import a room, or skip where its third party is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if name.startswith(f"{PACKAGE}.contrib."):
            pytest.skip(f"{name}: {error}")
        raise


@cache
def tree(path: str) -> ast.Module:
    """Return the parsed source of a file."""
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def bound(statement: ast.stmt) -> list[str]:
    """Return the names that a definition or an assignment binds."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def is_type_variable(statement: ast.stmt) -> bool:
    """Whether an assignment makes a type variable."""
    value = getattr(statement, "value", None)
    return isinstance(value, ast.Call) and ast.unparse(value.func).endswith(
        ("TypeVar", "ParamSpec", "TypeVarTuple")
    )


def offered(module: ModuleType) -> set[str]:
    """Return the public names that a room defines; a package also offers what it gathers."""
    path = modules()[module.__name__]
    names: set[str] = set()
    for statement in tree(str(path)).body:
        if not is_type_variable(statement):
            names.update(bound(statement))
        if isinstance(statement, ast.ImportFrom) and path.name == "__init__.py":
            ours = statement.level or (statement.module or "").startswith(PACKAGE)
            names.update(alias.asname or alias.name for alias in statement.names if ours)
    return {name for name in names if not name.startswith("_")}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public members that a class has from this library."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] == PACKAGE:
            for name, value in vars(base).items():
                if not name.startswith("_") and name not in seen:
                    seen.add(name)
                    yield name, value


def public_names() -> list[str]:
    """Return every public name, with the public members of classes."""
    names: list[str] = []
    for name in ROOMS:
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            names.append(f"{name}.{public}")
            if inspect.isclass(value):
                names += [f"{name}.{public}.{member}" for member, _ in members(value)]
    return sorted(names)


def public_classes(name: str) -> dict[str, type]:
    """Return the public classes of a room that are the library's own."""
    module = room(name)
    return {
        public: value
        for public in module.__all__
        if inspect.isclass(value := getattr(module, public))
        and value.__module__.split(".")[0] == PACKAGE
    }


def definition(cls: type) -> ast.ClassDef:
    """Return where a class stands in the source."""
    path = inspect.getsourcefile(cls)
    assert path is not None
    return next(
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )


@pytest.mark.parametrize("name", ROOMS)
def test_all_is_what_is_offered(name: str) -> None:
    """`__all__` is in order, without doubles, and names all that the room offers."""
    module = room(name)
    expected = sorted(
        set(module.__all__),
        # Constants, then classes, then functions: the order that ruff keeps.
        key=lambda public: (not public.isupper(), not public[0].isupper(), public),
    )
    assert list(module.__all__) == expected
    assert offered(module) - set(module.__all__) == set()
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.__all__ names {public!r}, which is not there"


def test_snapshot() -> None:
    """No public name comes or goes by accident."""
    pytest.importorskip("asyncssh")
    actual = public_names()
    expected = SNAPSHOT.read_text(encoding="utf-8").split()
    new = sorted(set(actual) - set(expected))
    gone = sorted(set(expected) - set(actual))
    assert actual == expected, (
        f"new: {new}\ngone: {gone}\n"
        f"If that is meant, write the snapshot anew ({REGENERATE}) and say so in CHANGELOG.md."
    )


@pytest.mark.parametrize("name", ROOMS)
def test_final_unless_made_for_subclassing(name: str) -> None:
    """A concrete class is final unless it is an extension point or has subclasses of our own."""
    loose = [
        public
        for public, cls in public_classes(name).items()
        if public not in EXTENSION_POINTS
        and not issubclass(cls, enum.Enum)
        and not getattr(cls, "_is_protocol", False)
        and not inspect.isabstract(cls)
        and not any(sub.__module__.split(".")[0] == PACKAGE for sub in cls.__subclasses__())
        and not any(
            ast.unparse(decorator).split(".")[-1] == "final"
            for decorator in definition(cls).decorator_list
        )
    ]
    assert not loose, f"{name}: not @final, and not in EXTENSION_POINTS: {loose}"


def test_extension_points_are_there() -> None:
    """Every extension point exists and is not final."""
    found = {public: cls for name in ROOMS for public, cls in public_classes(name).items()}
    for public in EXTENSION_POINTS:
        assert not getattr(found[public], "__final__", False), public


@pytest.mark.parametrize("name", ROOMS)
def test_everything_has_a_docstring(name: str) -> None:
    """Rooms, classes, methods, fields, functions, aliases and constants say what they are."""
    module = room(name)
    silent = [] if module.__doc__ else [name]
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value):
            silent += [f"{public}{member}" for member in undocumented(value)]
        elif inspect.isroutine(value):
            silent += [] if inspect.getdoc(value) else [public]
        elif not has_text_below(public):
            silent.append(public)
    assert not silent, f"{name}: no docstring (a field: not in its class's): {silent}"


def undocumented(cls: type) -> Iterator[str]:
    """Yield what has no docstring in a class: the class itself, a method, or a field."""
    if not cls.__dict__.get("__doc__"):
        yield ""
    if cls.__module__.split(".")[0] != PACKAGE:
        return
    fields = {field.name for field in attrs.fields(cls)} if attrs.has(cls) else set()
    for member, value in members(cls):
        if member in fields:
            described = is_described(member, cls)
        elif callable(value) or isinstance(value, (property, classmethod, staticmethod)):
            described = inspect.getdoc(value) or inspect.getdoc(getattr(cls, member))
        else:
            continue
        if not described:
            yield f".{member}"


def is_described(field: str, cls: type) -> bool:
    """Whether a field has an entry (`field: …`, `one, field: …`) in a docstring, or one below it."""
    entry = re.compile(rf"^ *(\w+, )*{field}(, \w+)*[:,]", re.MULTILINE)
    return any(
        entry.search(base.__doc__ or "") or text_below(definition(base).body, field)
        for base in cls.__mro__
        if base.__module__.split(".")[0] == PACKAGE
    )


def text_below(body: list[ast.stmt], name: str) -> bool:
    """Whether what binds a name is followed by a string."""
    return any(
        name in bound(statement)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
        for statement, below in pairwise(body)
    )


def has_text_below(public: str) -> bool:
    """Whether an assignment to this name, anywhere in the package, has a string right below it."""
    return any(text_below(tree(str(path)).body, public) for path in modules().values())


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
