"""Print the lowest version of each dependency that pyproject.toml allows, as pip constraints."""

from __future__ import annotations

import re
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(pyproject: str) -> list[str]:
    """Return `name==version` for each lower bound of the core dependencies and the extras.

    Read by pattern: Python 3.10 has no TOML parser, and this runs before anything is installed.

    Args:
        pyproject: The text of a pyproject.toml.

    Returns:
        The constraints, sorted, without the development groups.
    """
    published = pyproject.split("[dependency-groups]")[0].split("dependencies = [", 1)[1]
    return sorted(
        {  # two extras may need the same
            f"{name}=={version}"
            for name, version in re.findall(r'"([A-Za-z0-9_-]+)>=([0-9.]+)[^"]*"', published)
        }
    )


if __name__ == "__main__":
    print("\n".join(lowest(PYPROJECT.read_text(encoding="utf-8"))))
