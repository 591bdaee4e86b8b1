"""Why a mutant that nobody notices is no bug."""

from __future__ import annotations

from collections.abc import Mapping

REASONS: Mapping[str, str] = {}
