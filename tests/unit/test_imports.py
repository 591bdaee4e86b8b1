"""The import map: which room may import which, and what an import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "temporal_patching"
SOURCE = Path(__file__).parents[2] / "src" / PACKAGE

# Imports run one way. Nobody imports `testing`, `contrib` or `cli`; `demo` is a program, not a room.
CORE = ["exceptions", "policy", "models", "workflow", "activity", "client", "worker"]
MAY_IMPORT: dict[str, set[str]] = {
    "": set(),
    "exceptions": set(),
    "policy": {"exceptions"},
    "models": {"exceptions", "policy"},
    "workflow": {"exceptions", "policy", "models"},
    "activity": {"exceptions", "policy", "models"},
    "client": {"exceptions", "policy", "models", "workflow", "activity"},
    "worker": {"exceptions", "policy", "models", "workflow", "activity"},
    "testing": set(CORE),
    "contrib": set(CORE),
    "demo": set(CORE),
    "cli": {"exceptions", "policy", "models", "client"},
    "__main__": {"cli", "demo"},
}

# Third-party packages, and the only modules that may import them ("": all).
THIRD_PARTY = {
    "attr": [""],
    "attrs": [""],
    "temporalio": [""],
    "typing_extensions": [""],
    "cattrs": ["models._wire"],
    "asyncssh": ["contrib.ssh"],
    "pytest": ["testing.pytest_plugin"],
    "click": ["cli"],
    "rich": ["cli", "demo"],
}

# `policy` decides: time, ids and chance come in as events.
NOT_IN_POLICY = {
    "asyncio", "concurrent", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "socket", "subprocess", "threading", "time", "uuid",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}


def imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield line and full name of what is imported at run time, inside of functions too."""
    typing_only = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test).endswith("TYPE_CHECKING")
        for statement in guard.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                up = module.split(".")[: len(module.split(".")) + is_package - node.level]
                source = ".".join([*up, source] if source else up)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what is wrong with the imports of one module, named from the package on."""
    tree = ast.parse(source)
    inside = module.removeprefix(PACKAGE).removeprefix(".")
    room = inside.split(".")[0]
    if room not in MAY_IMPORT:
        return [f"{module}: room {room!r} is not in the map; put it into MAY_IMPORT"]
    found: list[str] = []
    for line, name in imports(tree, module, is_package=is_package):
        top, *rest = name.split(".")
        where = f"{module}:{line} imports {name}"
        if top == PACKAGE:
            other = rest[0] if rest and rest[0] in MAY_IMPORT else ""
            if other not in MAY_IMPORT[room] | {room}:
                allowed = ", ".join(sorted(MAY_IMPORT[room])) or "no room"
                found.append(f"{where}: {room or 'the root'} may import {allowed}")
        elif top == "__future__":
            continue
        elif top in sys.stdlib_module_names:
            if room == "policy" and top in NOT_IN_POLICY:
                found.append(f"{where}: policy knows no clock, chance or input and output")
        elif not any(
            homes == "" or inside == homes or inside.startswith(homes + ".")
            for homes in THIRD_PARTY.get(top, [])
        ):
            found.append(f"{where}: allowed only in {THIRD_PARTY.get(top, 'no module')}")
        elif room == "policy" and top == "temporalio" and name != "temporalio.common.RetryPolicy":
            found.append(f"{where}: policy knows nothing of temporalio but RetryPolicy")
    if room == "policy":
        found += [
            f"{module}:{node.lineno} calls {ast.unparse(node.func)}: policy has no clock"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CLOCKS
        ]
    return found


def modules() -> dict[str, Path]:
    """Return each module of the package with its file."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_import_map() -> None:
    """Every module imports only what the map allows."""
    found = [
        violation
        for module, path in modules().items()
        for violation in violations(
            module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py"
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("temporal_patching", "from temporal_patching.models import PatchRequest"),
        ("temporal_patching", "from . import models"),
        ("temporal_patching.exceptions", "from .policy import HostState"),
        ("temporal_patching.policy._host", "from ..models import HostTask"),
        ("temporal_patching.policy._host", "from temporal_patching.models import HostTask"),
        ("temporal_patching.policy._host", "from .. import models"),
        ("temporal_patching.policy._host", "from temporalio import workflow"),
        ("temporal_patching.policy._host", "import temporalio.common"),
        ("temporal_patching.policy._host", "import asyncio"),
        ("temporal_patching.policy._host", "from random import random"),
        ("temporal_patching.policy._host", "def f():\n    return datetime.now()"),
        ("temporal_patching.models", "from temporal_patching import workflow"),
        ("temporal_patching.models._report", "import cattrs"),
        ("temporal_patching.workflow._system", "from temporal_patching.client import Rollout"),
        ("temporal_patching.workflow._system", "def f():\n    from ..activity import Checkpoint"),
        ("temporal_patching.workflow._system", "import temporal_patching.worker"),
        ("temporal_patching.workflow._system", "import temporal_patching"),
        ("temporal_patching.activity", "from temporal_patching.workflow import gather"),
        ("temporal_patching.client", "from .worker import PatchingPlugin"),
        ("temporal_patching.client", "from .testing import Fleet"),
        ("temporal_patching.worker", "from .contrib import ssh"),
        ("temporal_patching.client", "from .cli import main"),
        ("temporal_patching.client", "import click"),
        ("temporal_patching.cli._commands", "from ..workflow import SystemPatchWorkflow"),
        ("temporal_patching.cli._commands", "from ..demo import main"),
        ("temporal_patching.testing._fleet", "from ..contrib import ssh"),
        ("temporal_patching.testing._fleet", "import pytest"),
        ("temporal_patching.activity", "import pydantic"),
        ("temporal_patching.utils", "import json"),
    ],
)
def test_forbidden_import(module: str, line: str) -> None:
    """The check sees a forbidden import."""
    assert violations(module, line)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("temporal_patching", "from importlib.metadata import version"),
        (
            "temporal_patching.exceptions",
            "if TYPE_CHECKING:\n    from .models import RolloutReport",
        ),
        ("temporal_patching.policy._host", "from temporalio.common import RetryPolicy"),
        ("temporal_patching.policy._host", "from ._states import HostState"),
        ("temporal_patching.policy._host", "from . import _states"),
        ("temporal_patching.models._wire", "import cattrs.gen"),
        ("temporal_patching.contrib.ssh", "import asyncssh"),
        ("temporal_patching.client", "from temporal_patching.workflow import SystemPatchWorkflow"),
        ("temporal_patching.demo._run", "import rich.progress"),
        ("temporal_patching.cli._commands", "from ..client import Rollout"),
        ("temporal_patching.cli._commands", "import click"),
    ],
)
def test_allowed_import(module: str, line: str) -> None:
    """The check leaves an allowed import alone."""
    assert violations(module, line) == []


def loaded_by(statement: str) -> list[str]:
    """Return what a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_root_loads_nothing() -> None:
    """Importing the root loads no room and no third party, and its version costs nothing more."""
    loaded = loaded_by("import temporal_patching")
    assert [name for name in loaded if name.startswith(PACKAGE + ".")] == []
    assert {name.split(".")[0] for name in loaded} & set(THIRD_PARTY) == set()


def test_workflow_loads_only_what_runs_in_a_workflow() -> None:
    """Importing `workflow` loads nothing that belongs outside of one."""
    loaded = loaded_by("import temporal_patching.workflow")
    outside = ("activity", "client", "worker", "testing", "contrib", "cli", "demo")
    forbidden = tuple(f"{PACKAGE}.{room}" for room in outside)
    assert [name for name in loaded if name.startswith((*forbidden, "cattrs.preconf"))] == []


ROOMS = sorted({name.split(".")[1] for name in modules() if "." in name} - {"__main__", "demo"})


@pytest.mark.parametrize("room", ROOMS)
def test_room_can_come_first(room: str) -> None:
    """Each room can be the first that a program imports, without a warning."""
    assert f"{PACKAGE}.{room}" in loaded_by(f"import {PACKAGE}.{room}")
