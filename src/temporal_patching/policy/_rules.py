"""How a field says what it allows: rules in attrs metadata, all of them checked at once."""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from itertools import islice
from typing import Any, cast

import attrs

from ..exceptions import InvalidRequest

Rule = Callable[[str, Any], Iterator[str]]
"""Gets a field's name and value and yields a sentence for each problem."""

_KEY = "temporal_patching.rules"

LONGEST = timedelta(days=3650)
"""The longest duration: with it a deadline is still a date."""

MAX_PROBLEMS = 100
MAX_PROBLEM = 500
"""Problems that are told, and characters of each: what quotes rubbish must not be as large as the rubbish."""


def must(*rules: Rule) -> Mapping[str, object]:
    """The ``metadata=`` of a field that keeps these rules."""
    return {_KEY: rules}


def problems(name: str, value: object, metadata: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one field's value."""
    for rule in metadata.get(_KEY, ()):
        yield from rule(name, value)


class Checked:
    """Base of every type that validates itself when it is made, with all its problems at once."""

    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        found: list[str] = []
        for field in attrs.fields(cast("type[attrs.AttrsInstance]", type(self))):
            wrong = problems(field.name, getattr(self, field.name), field.metadata)
            found.extend(islice(wrong, MAX_PROBLEMS + 1))
        if not found:  # how fields relate only means something once each is right by itself
            found.extend(self._relations())
        if found:
            raise InvalidRequest(bounded(found), what=type(self).__name__)

    def _relations(self) -> Iterable[str]:
        """Problems that need more than one field."""
        return ()


def bounded(found: Iterable[str]) -> list[str]:
    """Problems as they can be told: not too many, none too long, and text that every payload can hold."""
    told: list[str] = []
    for problem in found:
        if len(told) == MAX_PROBLEMS:
            return [*told, "and more"]
        if len(problem) > MAX_PROBLEM:
            problem = f"{problem[: MAX_PROBLEM // 2]} … {problem[-MAX_PROBLEM // 2 :]}"
        # Half of a surrogate pair is no text: it would fail the workflow's task, not the workflow.
        told.append(problem.encode("utf-8", "backslashreplace").decode())
    return told


MAX_COMPARED = 400
"""Names that are compared with one that nobody knows: each takes some 50 µs, and a fleet has 50,000."""

MAX_MISSPELT = 300
"""Characters of a name that somebody may have misspelt. What is longer is no name."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'drain'?`` or nothing."""
    if len(name) > MAX_MISSPELT:
        return ""
    close = get_close_matches(name, _alike(name, [*known]), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _alike(name: str, known: list[str]) -> list[str]:
    """Of many names those that begin or end as this one does, as far as any do."""
    if len(known) <= MAX_COMPARED:
        return known
    found: list[str] = []
    for way in (1, -1):
        ordered = sorted(each[::way] for each in known)
        at = bisect(ordered, name[::way])
        near = ordered[max(at - MAX_COMPARED // 4, 0) : at + MAX_COMPARED // 4]
        found += (each[::way] for each in near)
    return found


def optional(*rules: Rule) -> Rule:
    """None is allowed, too."""

    def rule(name: str, value: object) -> Iterator[str]:
        if value is not None:
            for each_rule in rules:
                yield from each_rule(name, value)

    return rule


def at_least(least: int) -> Rule:
    """A whole number, ``least`` or more."""

    def rule(name: str, value: object) -> Iterator[str]:
        if isinstance(value, bool) or not isinstance(value, int):
            yield f"{name!r} must be a whole number (got {value!r})"
        elif value < least:
            yield f"{name!r} must be >= {least} (got {value!r})"

    return rule


def one_of(*options: str) -> Rule:
    """One of these words."""

    def rule(name: str, value: object) -> Iterator[str]:
        if value not in options:
            hint = did_you_mean(value, options) if isinstance(value, str) else ""
            yield f"{name!r} must be in {options!r} (got {value!r}){hint}"

    return rule


def positive(name: str, value: object) -> Iterator[str]:
    """A duration above zero."""
    if not isinstance(value, timedelta):
        yield f"{name!r} must be a timedelta (got {value!r})"
    elif value <= timedelta(0):
        yield f"{name!r} must be > 0 seconds (got {value!r})"
    elif value > LONGEST:
        yield f"{name!r} must be <= {LONGEST.days} days (got {value!r})"


def flag(name: str, value: object) -> Iterator[str]:
    """True or False."""
    if not isinstance(value, bool):
        yield f"{name!r} must be True or False (got {value!r})"


def text(name: str, value: object) -> Iterator[str]:
    """A text that is not blank."""
    if not isinstance(value, str):
        yield f"{name!r} must be a text (got {value!r})"
    elif not value.strip():
        yield f"{name!r} must not be empty (got {value!r})"


def at_most(longest: int) -> Rule:
    """A text of so many characters, or fewer."""

    def rule(name: str, value: object) -> Iterator[str]:
        if isinstance(value, str) and len(value) > longest:
            yield f"{name!r} must have at most {longest} characters (got {len(value)})"

    return rule


def string(name: str, value: object) -> Iterator[str]:
    """Any text, also an empty one."""
    if not isinstance(value, str):
        yield f"{name!r} must be a text (got {value!r})"


def identifier(name: str, value: object) -> Iterator[str]:
    """A name that a Python method can have."""
    if not (isinstance(value, str) and value.isidentifier() and not value.startswith("_")):
        yield f"{name!r} must be the name of a public method (got {value!r})"


def instance_of(*types: type) -> Rule:
    """An object of one of these types."""

    def rule(name: str, value: object) -> Iterator[str]:
        if not isinstance(value, types):
            wanted = " or ".join(each_type.__name__ for each_type in types)
            yield f"{name!r} must be a {wanted} (got {value!r})"

    return rule


_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}")
_REFERENCE = re.compile(r"[a-z][a-z0-9+.-]*:\S+")


def node_name(name: str, value: object) -> Iterator[str]:
    """A host's or cluster's name: it goes into workflow ids and command lines."""
    if not (isinstance(value, str) and _NODE_NAME.fullmatch(value)):
        yield (
            f"{name!r} must be a name of letters, digits and . _ : - that starts with a letter or "
            f"digit (got {value!r})"
        )


def reference(name: str, value: object) -> Iterator[str]:
    """Where a secret is, never the secret."""
    if not (isinstance(value, str) and _REFERENCE.fullmatch(value)):
        # The value may be the secret itself: it is not repeated.
        yield f"{name!r} must be a reference like 'vault:path#key' or 'env:NAME', not the secret"


def json_value(name: str, value: object) -> Iterator[str]:
    """What JSON can hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"{name!r} must be a JSON value ({error})"


def each(*rules: Rule, least: int = 0) -> Rule:
    """A list whose entries keep these rules."""

    def rule(name: str, value: object) -> Iterator[str]:
        if not isinstance(value, tuple):
            yield f"{name!r} must be a list (got {value!r})"
            return
        entries = cast("tuple[object, ...]", value)
        if len(entries) < least:
            yield f"{name!r} must have at least {least} (got {list(entries)!r})"
        for index, entry in enumerate(entries):
            for each_rule in rules:
                yield from each_rule(f"{name}[{index}]", entry)

    return rule


def distinct(name: str, value: object) -> Iterator[str]:
    """No entry of a list twice, spelling (case, spaces) aside."""
    if isinstance(value, tuple):
        seen: set[str] = set()
        for entry in cast("tuple[object, ...]", value):
            if isinstance(entry, str):
                if canonical(entry) in seen:
                    yield f"{name!r} must not name {entry!r} twice"
                seen.add(canonical(entry))


def values(*rules: Rule) -> Rule:
    """A mapping with text keys whose values keep these rules."""

    def rule(name: str, value: object) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield f"{name!r} must be a mapping (got {value!r})"
            return
        for key, entry in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str) or not key.strip():
                yield f"{name!r} must have texts as keys (got {key!r})"
            for each_rule in rules:
                yield from each_rule(f"{name}[{key!r}]", entry)

    return rule


def canonical(name: str) -> str:
    """The one spelling of a person or host: case, spaces and ways to write one letter do not matter."""
    return unicodedata.normalize("NFKC", " ".join(name.split()).casefold())


def as_tuple(entries: Iterable[str]) -> tuple[str, ...]:
    """Freezes a list of texts; leaves what is no list to the rules, which name it."""
    return cast("tuple[str, ...]", frozen(entries))


def frozen(entries: Any) -> Any:
    """A list as a tuple; anything else as it is, for the rules to name."""
    # A text is iterable, too: ("e", "u", "-", "1") is never what its author meant.
    known: Any = entries
    return tuple(known) if isinstance(entries, (list, tuple, set, frozenset)) else known
