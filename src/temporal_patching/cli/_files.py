"""Requests in files: read, checked before anything is sent, and written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..exceptions import InvalidRequest
from ..models import PatchRequest
from ..models._wire import from_json, to_json
from ._exits import UNEXPECTED, Stopped


def request_of(context: click.Context, param: click.Parameter, value: str) -> PatchRequest:
    """The ``PatchRequest`` that a file has as JSON; ``-`` is stdin."""
    try:
        data = sys.stdin.buffer.read() if value == "-" else Path(value).read_bytes()
        return from_json(json.loads(data.decode("utf-8-sig")), PatchRequest)
    except OSError as error:
        raise click.BadParameter(f"{value}: {error.strerror or error}") from None
    except InvalidRequest as error:
        raise click.BadParameter(f"{value}: {'; '.join(error.problems)}") from None
    except (ValueError, AttributeError) as error:  # no JSON, or no stdin
        raise click.BadParameter(f"{value} is no JSON: {error}") from None


def out_of(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A file that can be written, as far as that can be known before."""
    if value is not None and (Path(value).is_dir() or not Path(value).parent.is_dir()):
        raise click.BadParameter(f"must be a file in a folder that is there (got {value!r})")
    return value


def write(path: str, request: PatchRequest) -> None:
    """Writes a request, for a start.

    Raises:
        Stopped: It cannot be written.
    """
    try:
        text = json.dumps(to_json(request), indent=2) + "\n"
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Stopped(UNEXPECTED, f"{path} was not written: {error.strerror or error}") from None
