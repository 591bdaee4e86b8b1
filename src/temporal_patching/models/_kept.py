"""What a step had saved when it failed, as it travels: in heartbeat details and in the failure's details."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

CHECKPOINT = "checkpoint"
"""The only field of a ``Checkpoint``'s heartbeat details."""

KEPT = "temporal_patching.checkpoint"
"""The only field of what the failure of a step that parks has as its last detail."""

KEPT_LIMIT = 64 * 1024
"""Bytes of a checkpoint that survives parking: it goes through several histories."""


def saved(details: Sequence[Any]) -> object | None:
    """The value of a ``Checkpoint`` in heartbeat details; None if there is none."""
    return _only(details[0], CHECKPOINT) if len(details) == 1 else None


def kept(details: Sequence[Any]) -> object | None:
    """The checkpoint that a failure brings along; None if it brings none."""
    return _only(details[-1], KEPT) if details else None


def fits(value: object) -> bool:
    """Whether a checkpoint is small enough, and made of what JSON knows."""
    try:
        return len(json.dumps(value)) <= KEPT_LIMIT
    except (TypeError, ValueError, RecursionError):
        return False


def _only(detail: Any, name: str) -> object | None:
    if not isinstance(detail, dict):
        return None
    fields = cast("dict[Any, object]", detail)
    return fields[name] if list(fields) == [name] else None
