"""The next state of a machine: the one before it, with some fields changed.

``attrs.evolve`` calls ``__init__`` with every field, changed or not; the machines' states have dozens, and
for a state that has neither validators nor converters that is no more than a slow copy. It was more than half of
what an event cost. So the machines' own states are copied as they are. Whatever a user
writes, requests and policies, is validated on each change: that stays with ``attrs.evolve``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Type checkers know the fields of each class, and what may stand in them.
    from attrs import evolve as evolve
else:

    def evolve(state: Any, /, **changes: Any) -> Any:
        """The state, with these fields changed.

        Args:
            state: Plain data, declared with ``slots=False``, where nothing is validated or converted.
            changes: The fields that are other ones in the next state.

        Raises:
            TypeError: It has no such field.
        """
        after = object.__new__(type(state))
        fields = after.__dict__
        fields.update(state.__dict__)
        many = len(fields)
        fields.update(changes)
        if len(fields) != many:
            unknown = sorted(changes.keys() - state.__dict__.keys())
            raise TypeError(f"{type(state).__name__} has no field {', '.join(unknown)}")
        return after
