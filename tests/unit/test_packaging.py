"""What an installed copy says about itself, and what the project file promises."""

from __future__ import annotations

import doctest
import re
from importlib import metadata
from pathlib import Path

import pytest

import temporal_patching
from tests import lowest

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_version() -> None:
    """`__version__` is the installed one, which is the project file's."""
    assert temporal_patching.__version__ == metadata.version("temporal-patching")
    assert f'\nversion = "{temporal_patching.__version__}"\n' in PYPROJECT


def test_unknown_name() -> None:
    """The root has no other name, and says so."""
    with pytest.raises(AttributeError, match=r"'temporal_patching' has no attribute 'Rollout'"):
        _ = temporal_patching.Rollout  # type: ignore[attr-defined]


def test_root_docstring() -> None:
    """The example in the root's docstring runs, and the docstring names every room."""
    assert doctest.testmod(temporal_patching) == (0, 2)
    rooms = set(re.findall(r":mod:`temporal_patching\.(\w+)`", temporal_patching.__doc__ or ""))
    package = Path(temporal_patching.__file__).parent
    there = {path.stem for path in package.iterdir() if re.fullmatch(r"[a-z]\w+(\.py)?", path.name)}
    assert there - rooms - {"demo"} == set()
    assert rooms - there == set()


def test_metadata() -> None:
    """The metadata name the license, the Pythons and the dependencies, and no address."""
    found = metadata.metadata("temporal-patching")
    assert found["License-Expression"] == "MIT"
    assert found["Requires-Python"] == ">=3.10"
    classifiers = found.get_all("Classifier") or []
    for version in ("3.10", "3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers
    assert found.get_all("Project-URL") is None
    required = [line for line in found.get_all("Requires-Dist") or [] if "extra ==" not in line]
    names = [re.split(r"[<>=~! ]", line)[0] for line in required]
    assert sorted(names) == ["attrs", "cattrs", "temporalio", "typing-extensions"]


def test_typed() -> None:
    """Type checkers of users see the annotations."""
    assert (Path(temporal_patching.__file__).parent / "py.typed").is_file()


def test_lower_bounds() -> None:
    """Each published dependency has a lower bound, and `make test-lowest` installs just that."""
    published = metadata.metadata("temporal-patching").get_all("Requires-Dist") or []
    bounds = dict(line.split("==") for line in lowest.lowest(PYPROJECT))
    names = [re.split(r"[<>=~! ;]", line)[0] for line in published]
    for name, line in zip(names, published, strict=True):
        assert f">={bounds[name]}" in line
    assert set(bounds) == set(names)


def test_project_file_has_no_address() -> None:
    """The project file points to no index and no direct download."""
    assert "://" not in PYPROJECT
    assert " @ " not in PYPROJECT
