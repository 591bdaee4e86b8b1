"""What crosses the wire converts itself: the base of every wire type, and the only home of cattrs.

``transfer_type_convertible`` makes a class convertible under *any* data converter, at the top level of
a payload. Everything nested is ours to convert, so a wire type turns into plain JSON values here and
the user's converter (default, pydantic, encrypted) only ever sees those.

Two converters are kept for the library's own types: a strict one for what people write, a lenient one
for what is read back from other releases. A user's types get a converter of their own each time: a
kept one would keep alive every copy of their classes that the workflow sandbox makes.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from itertools import islice
from typing import Any, ClassVar, TypeVar, Union, cast, get_args, get_origin

import attrs
import cattrs
from temporalio.common import RetryPolicy
from temporalio.converter import TransferTypeConverter, transfer_type_convertible

from ..exceptions import InvalidRequest
from ..policy._amount import Amount
from ..policy._rules import MAX_PROBLEMS, Checked, bounded, did_you_mean, problems
from ..policy._states import HostState, Outcome
from ._duration import format_duration, parse_duration

T = TypeVar("T")

_LIBRARY = __name__.partition(".")[0]


class _Wrong(ValueError):
    """A value of the wrong form. Its text follows the field's name: "must be a text (got 5)"."""


class _WireConverter(TransferTypeConverter["WireType", Any]):
    # No transfer_type: the payload's JSON arrives as it is, so that rubbish can be named, not only refused.
    def to_transfer_type(self, value: WireType) -> Any:
        return to_json(value)

    def from_transfer_type(self, value: Any, type_hint: type[WireType]) -> WireType:
        return from_json(value, type_hint)


class WireType(Checked):
    """Base of what crosses the wire: validated when made, plain JSON in histories, any data converter."""

    __slots__ = ()
    _refuses_unknown: ClassVar[bool] = True
    """False for what is read back: a newer release may have written more fields."""
    _written_short: ClassVar[bool] = False
    """True for what travels once a host: what has its default is left out. All else is written in full,
    so that history says what held, whatever the defaults of a later release are."""


transfer_type_convertible(_WireConverter)(WireType)


def to_json(value: object) -> Any:
    """The plain JSON value of a wire type, attrs class, dataclass or JSON value."""
    if getattr(value, "_written_short", False):
        return _SHORT.unstructure(value)
    return _converter_of(type(value)).unstructure(value)


def from_json(value: Any, wanted: type[T]) -> T:
    """Makes a ``wanted`` from its plain JSON value.

    Raises:
        InvalidRequest: It does not fit. Names every wrong field with its path.
    """
    strict = bool(getattr(wanted, "_refuses_unknown", True))
    converter = _converter_of(wanted, strict=strict)
    try:
        return converter.structure(value, wanted)
    except Exception as error:
        try:
            found = list(_explain(_converter(strict=strict), value, wanted, "$", "", strict))
        except RecursionError:  # what cannot even be printed
            found = ["must not be nested so deeply @ $"]
        what = getattr(wanted, "__name__", str(wanted))
        raise InvalidRequest(bounded(found or [f"{error} @ $"]), what=what) from None


def _converter_of(kind: Any, *, strict: bool = True) -> cattrs.Converter:
    # By where it is defined: a user may well derive a wire type of their own.
    if isinstance(kind, type) and kind.__module__.startswith(f"{_LIBRARY}."):
        return _STRICT if strict else _LENIENT
    return _converter(strict=strict, detailed=False)


# What is wrong, said for people. Only walked after the fast way has failed.


def _explain(
    converter: cattrs.Converter, value: Any, wanted: Any, path: str, name: str, strict: bool
) -> Iterator[str]:
    wanted = _without_none(wanted) if value is not None else wanted
    origin, arguments = get_origin(wanted), get_args(wanted)
    if isinstance(wanted, type) and attrs.has(wanted):
        yield from _explain_fields(converter, value, wanted, path, strict)
    elif origin is tuple and isinstance(value, list):
        entries: list[Any] = value
        for index, entry in enumerate(entries):
            at = f"[{index}]"
            yield from _explain(converter, entry, arguments[0], path + at, name + at, strict)
    elif origin in (Mapping, dict) and isinstance(value, dict):
        members: dict[str, Any] = value
        for key, entry in members.items():
            yield from _explain(
                converter, entry, arguments[1], f"{path}.{key}", f"{name}[{key!r}]", strict
            )
    else:
        try:
            converter.structure(value, wanted)
        except _Wrong as wrong:
            yield f"{name!r} {wrong} @ {path}" if name else f"{wrong} @ {path}"
        except cattrs.BaseValidationError as error:
            yield from cattrs.transform_error(error, path, _said_of)
        except Exception:
            said = f"must be {_said(wanted)} (got {value!r}) @ {path}"
            yield f"{name!r} {said}" if name else said


def _explain_fields(
    converter: cattrs.Converter, value: Any, wanted: type, path: str, strict: bool
) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"must be an object with the fields of {wanted.__name__} (got {value!r}) @ {path}"
        return
    given: dict[str, Any] = value
    fields = {field.name: field for field in attrs.fields(attrs.resolve_types(wanted))}
    extra = [name for name in given if name not in fields]
    if extra and strict:
        hint = did_you_mean(extra[0], fields)
        yield f"extra fields found ({', '.join(extra)}) @ {path}{hint}"
    wrong = bool(extra and strict)
    for name, field in fields.items():
        at = f"{path}.{name}"
        if name not in given:
            if field.default is attrs.NOTHING:
                wrong = True
                yield f"required field missing @ {at}"
            continue
        wrong_inside = _explain(converter, given[name], field.type, at, name, strict)
        found = list(islice(wrong_inside, MAX_PROBLEMS + 1))
        if not found:
            try:
                held = converter.structure(given[name], field.type)
                held = field.converter(held) if callable(field.converter) else held
                wrong_held = problems(name, held, field.metadata)
                found = [f"{said} @ {at}" for said in islice(wrong_held, MAX_PROBLEMS + 1)]
            except Exception as error:
                found = [f"{error} @ {at}"]
        wrong = wrong or bool(found)
        yield from found
    if not wrong:  # each field is right by itself, so it must be how they relate
        try:
            converter.structure(given, wanted)
        except Exception as error:
            for said in error.problems if isinstance(error, InvalidRequest) else _leaves(error):
                yield f"{said} @ {path}"


def _said_of(error: BaseException, wanted: Any) -> str:
    """What is wrong with a value inside of what is no class of ours, a dataclass say."""
    if isinstance(error, KeyError):
        return "required field missing"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"extra fields found ({', '.join(sorted(error.extra_fields))})"
    return str(error) if isinstance(error, ValueError) else f"must be {_said(wanted)}"


def _leaves(error: BaseException) -> Iterator[str]:
    inner = getattr(error, "exceptions", ())
    if not inner:
        yield from error.problems if isinstance(error, InvalidRequest) else (str(error),)
    for each_error in inner:
        yield from _leaves(each_error)


def _without_none(wanted: Any) -> Any:
    if get_origin(wanted) in (Union, types.UnionType):
        some = [each for each in get_args(wanted) if each is not type(None)]
        return some[0] if len(some) == 1 else wanted
    return wanted


def _said(wanted: Any) -> str:
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return f"one of {[each.value for each in wanted]!r}"
    arguments = get_args(wanted)
    if arguments and all(isinstance(each, str) for each in arguments):
        return f"in {arguments!r}"
    names: dict[Any, str] = {tuple: "a list", Mapping: "an object", dict: "an object"}
    kind: Any = get_origin(wanted) or wanted
    return names.get(kind, f"a {getattr(kind, '__name__', kind)}")


# The JSON form of each leaf type. Nothing is coerced: "5" is no number and "no" is not True.


def _exactly(kind: type, said: str, *also: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, wanted: Any) -> Any:
        if not isinstance(value, (kind, *also)) or (kind is not bool and isinstance(value, bool)):
            raise _Wrong(f"must be {said} (got {value!r})")
        value = _plain(value) if kind is str else kind(value)
        # The hook also gets what derives from its type, a (str, Enum) for one.
        return value if wanted is kind else wanted(value)

    return structure


def _plain(text: Any) -> Any:
    # Half of a surrogate pair passes through JSON, but not into a failure's message: that would fail
    # the workflow's task for ever.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _structure_amount(value: Any, _: Any) -> Amount:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise _Wrong(f'must be a whole number or a percentage like "5%" (got {value!r})')
    return value


def _structure_duration(value: Any, _: Any) -> timedelta:
    try:
        return parse_duration(value)
    except TypeError:
        raise _Wrong(f'must be a duration like "90s", "15m" or "1h30m" (got {value!r})') from None
    except ValueError as error:
        raise _Wrong(str(error)) from None


def _structure_datetime(value: Any, _: Any) -> datetime:
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError, TypeError):
        raise _Wrong(f'must be a time like "2026-11-01T22:00:00+00:00" (got {value!r})') from None


def _structure_tuple(converter: cattrs.Converter) -> Callable[[Any, Any], tuple[Any, ...]]:
    def structure(value: Any, wanted: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise _Wrong(f"must be a list (got {value!r})")
        inner = get_args(wanted)[0]
        return tuple(converter.structure(entry, inner) for entry in cast("list[Any]", value))

    return structure


@attrs.frozen(kw_only=True)
class _RetryPolicyForm:
    """``temporalio.common.RetryPolicy`` as JSON, with the SDK's own names and defaults."""

    initial_interval: timedelta = timedelta(seconds=1)
    backoff_coefficient: float = 2.0
    maximum_interval: timedelta | None = None
    maximum_attempts: int = 0
    non_retryable_error_types: tuple[str, ...] | None = None


class _Converter(cattrs.Converter):
    def gen_structure_attrs_fromdict(self, cl: type[T]) -> Callable[[Mapping[str, Any], Any], T]:
        structure = super().gen_structure_attrs_fromdict(cl)

        def from_object(value: Any, wanted: Any) -> T:
            # An empty list or text has no field that could be wrong: it would pass for all defaults.
            if not isinstance(value, dict):
                raise _Wrong(f"must be an object with the fields of {cl.__name__} (got {value!r})")
            fields: dict[str, Any] = value
            return structure(fields, wanted)

        return from_object


def _converter(*, strict: bool, detailed: bool = True, short: bool = False) -> cattrs.Converter:
    """A converter.

    One that is not ``detailed`` stops at the first error, before a task takes too long; a ``short`` one
    leaves out what has its default.
    """
    made = _Converter(
        detailed_validation=detailed,
        forbid_extra_keys=strict,
        omit_if_default=short,
        unstruct_collection_overrides={tuple: list},
    )
    made.register_structure_hook(str, _exactly(str, "a text"))
    made.register_structure_hook(int, _exactly(int, "a whole number"))
    made.register_structure_hook(float, _exactly(float, "a number", int))
    made.register_structure_hook(bool, _exactly(bool, "true or false"))
    made.register_structure_hook_func(lambda wanted: wanted is object, lambda value, _: value)
    for enum in (HostState, Outcome):  # else they are taken for texts, which they are, too
        made.register_unstructure_hook(enum, lambda value: value.value)
    made.register_structure_hook_func(lambda wanted: wanted == Amount, _structure_amount)
    made.register_structure_hook_func(
        lambda wanted: wanted == (Amount | None),
        lambda value, _: None if value is None else _structure_amount(value, _),
    )
    made.register_unstructure_hook_func(
        lambda wanted: wanted in (Amount, Amount | None), lambda value: value
    )
    made.register_structure_hook(timedelta, _structure_duration)
    made.register_unstructure_hook(timedelta, format_duration)
    made.register_structure_hook(datetime, _structure_datetime)
    made.register_unstructure_hook(datetime, datetime.isoformat)
    made.register_structure_hook_func(_is_list, _structure_tuple(made))

    def read_retry_policy(value: Any, _: Any) -> RetryPolicy:
        if not isinstance(value, dict):
            raise _Wrong(f"must be an object with the fields of RetryPolicy (got {value!r})")
        form = made.structure(value, _RetryPolicyForm)
        return RetryPolicy(**attrs.asdict(form))  # same names, on purpose

    def write_retry_policy(value: RetryPolicy) -> Any:
        types_named = value.non_retryable_error_types
        return made.unstructure(
            _RetryPolicyForm(
                initial_interval=value.initial_interval,
                backoff_coefficient=value.backoff_coefficient,
                maximum_interval=value.maximum_interval,
                maximum_attempts=value.maximum_attempts,
                non_retryable_error_types=None if types_named is None else tuple(types_named),
            )
        )

    made.register_structure_hook(RetryPolicy, read_retry_policy)
    made.register_unstructure_hook(RetryPolicy, write_retry_policy)
    return made


def _is_list(wanted: Any) -> bool:
    return get_origin(wanted) is tuple and get_args(wanted)[1:] == (Ellipsis,)


_STRICT = _converter(strict=True, detailed=False)
_LENIENT = _converter(strict=False, detailed=False)
_SHORT = _converter(strict=False, short=True)
