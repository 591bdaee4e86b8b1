"""Payloads read by hand: a result that cannot be read is an error where it is awaited.

Left to the SDK it fails the whole workflow, or its task for ever, and no clean-up runs.
"""

from __future__ import annotations

from typing import TypeVar

from temporalio import workflow
from temporalio.common import RawValue

from ..exceptions import InvalidRequest
from ..models._wire import WireType, from_json

WireT = TypeVar("WireT", bound=WireType)


def read(value: object, wanted: type[WireT]) -> WireT:
    """The wire type in a payload, or in a value that was decoded without a type.

    Raises:
        InvalidRequest: It is something else; it names every wrong field.
    """
    if not isinstance(value, RawValue):
        return value if isinstance(value, wanted) else from_json(value, wanted)
    try:
        return workflow.payload_converter().from_payload(value.payload, wanted)
    except InvalidRequest:
        raise
    except Exception as error:
        raise InvalidRequest(
            [f"must be a {wanted.__name__}, but the payload cannot be read ({error})"]
        ) from None


def read_one(arguments: tuple[object, ...], wanted: type[WireT]) -> WireT:
    """The wire type that a handler takes as its only argument, whatever was sent.

    Raises:
        InvalidRequest: There are more or fewer arguments, or it is something else.
    """
    if len(arguments) != 1:
        raise InvalidRequest([f"takes one {wanted.__name__} (got {len(arguments)} arguments)"])
    return read(arguments[0], wanted)
