"""Histories as they are kept: a packed file a case, an event a line, with nothing in them of the machine."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHistory

from temporal_patching.workflow import _length

HISTORIES = Path(__file__).parent / "histories"
UNRELEASED = "unreleased"


def without_places(value: Any) -> Any:
    """A history's JSON without stack traces, which name the files of the machine that recorded it."""
    if isinstance(value, dict):
        return {key: without_places(each) for key, each in value.items() if key != "stackTrace"}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    return value


def as_text(histories: Mapping[str, WorkflowHistory]) -> str:
    """A file's text. Keys are workflow id and run number."""
    parts = []
    for name, history in histories.items():
        events = without_places(json.loads(history.to_json()))["events"]
        lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
        parts.append(f"{json.dumps(name)}: [\n{lines}\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def packed(text: str) -> bytes:
    """A file's content: the same text makes the same bytes."""
    return gzip.compress(text.encode(), mtime=0)


def unpacked(file: Path) -> str:
    """A file's text. In a shell: ``zcat``."""
    return gzip.decompress(file.read_bytes()).decode()


def from_file(file: Path) -> Mapping[str, WorkflowHistory]:
    """What a file has, by workflow id and run number."""
    found = json.loads(unpacked(file))
    return {
        name: WorkflowHistory.from_json(name.split(" ")[0], {"events": events})
        for name, events in found.items()
    }


@contextmanager
def run_lengths(lengths: Mapping[str, int]) -> Iterator[None]:
    """Runs are as long as this says, until the end of the block."""
    before = {name: getattr(_length, name) for name in lengths}
    for name, value in lengths.items():
        setattr(_length, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(_length, name, value)
