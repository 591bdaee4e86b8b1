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


def is_checkpoint(details: Sequence[Any]) -> bool:
    """Whether heartbeat details are those of a ``Checkpoint``."""
    return len(details) == 1 and _has_only(details[0], CHECKPOINT)


def saved(details: Sequence[Any]) -> object | None:
    """The value of a ``Checkpoint`` in heartbeat details; None if there is none."""
    return cast("object", details[0][CHECKPOINT]) if is_checkpoint(details) else None


def kept(details: Sequence[Any]) -> object | None:
    """The checkpoint that a failure brings along; None if it brings none."""
    if not details or not _has_only(details[-1], KEPT):
        return None
    return cast("object", details[-1][KEPT])


def fits(value: object) -> bool:
    """Whether a checkpoint is small enough, and made of what JSON knows."""
    try:
        return len(json.dumps(value)) <= KEPT_LIMIT
    except (TypeError, ValueError, RecursionError):
        return False


def _has_only(detail: Any, name: str) -> bool:
    return isinstance(detail, dict) and list(cast("dict[str, object]", detail)) == [name]
