"""Faults by chance: the same seed gives the same ones, and each host has its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from ..exceptions import InvalidRequest
from ..policy import DEFAULT_STEPS
from ._faults import (
    Delayed,
    DiskFull,
    DoneButLost,
    Doubled,
    FailAt,
    Fault,
    HalfConfigured,
    Hang,
    HostKeyChanged,
    LiesAboutBoot,
    LiesAboutSuccess,
    LockHeld,
    NeedsReboot,
    NeverReturns,
    NotNeeded,
    RebootsByItself,
    RefuseAt,
    RequestLost,
    Slow,
    Unchanged,
    Unreachable,
)
from ._hosts import EFFECTS


def _step(chance: Random) -> str:
    return chance.choice(DEFAULT_STEPS.names)


def _effective(chance: Random) -> str:
    return chance.choice(sorted(EFFECTS))


def _times(chance: Random) -> int | None:
    return chance.choice((1, 2, None))


_MENU: Mapping[type[Fault], Callable[[Random], Fault]] = {
    FailAt: lambda chance: FailAt(_step(chance), times=_times(chance)),
    RefuseAt: lambda chance: RefuseAt(_step(chance)),
    Unreachable: lambda chance: Unreachable(_step(chance), times=_times(chance)),
    Slow: lambda chance: Slow(_step(chance)),
    RequestLost: lambda chance: RequestLost(_step(chance), times=_times(chance)),
    DoneButLost: lambda chance: DoneButLost(_effective(chance)),
    Delayed: lambda chance: Delayed(_effective(chance)),
    Doubled: lambda chance: Doubled(_effective(chance)),
    LiesAboutSuccess: lambda _: LiesAboutSuccess(),
    LiesAboutBoot: lambda _: LiesAboutBoot(),
    NotNeeded: lambda _: NotNeeded(),
    Unchanged: lambda _: Unchanged(),
    NeedsReboot: lambda _: NeedsReboot(),
    RebootsByItself: lambda chance: RebootsByItself(_step(chance)),
    HalfConfigured: lambda chance: HalfConfigured(times=_times(chance)),
    LockHeld: lambda chance: LockHeld(times=_times(chance)),
    DiskFull: lambda chance: DiskFull(
        chance.choice(("check_preconditions", "perform_update")), times=_times(chance)
    ),
    HostKeyChanged: lambda chance: HostKeyChanged(_step(chance)),
    Hang: lambda chance: Hang(_step(chance), times=1),
    NeverReturns: lambda chance: NeverReturns(_effective(chance), times=1),
}

_ONLY_IF_ASKED: frozenset[type[Fault]] = frozenset({Hang, NeverReturns})
"""They end with a timeout only, and no clock skips one while an activity runs."""


def some_faults(
    seed: int,
    clusters: Mapping[str, int | Sequence[str]],
    *,
    share: float = 0.3,
    weights: Mapping[type[Fault], float] | None = None,
) -> dict[str, tuple[Fault, ...]]:
    """Faults for a fleet, by chance: ``SimulatedFleet(clusters, faults=some_faults(seed, clusters))``.

    Which kinds there are is chosen once for each seed: about half of them are off, and the others have
    weights of their own, since faults that are everywhere hide each other. A host's faults are drawn from the
    seed and its name: adding a host does not change what happens to the others.

    Args:
        seed: The same seed, the same faults, with the same release of this library.
        clusters: As for ``SimulatedFleet``.
        share: How many of the hosts have a fault, about. Default 0.3.
        weights: Of kinds of faults, instead of what the seed chooses; 0 is never. ``Hang`` and
            ``NeverReturns`` come only if they are named here: they last until a timeout.

    Returns:
        By host, for the hosts that have any. A plain dict: print it, change it, keep it.

    Raises:
        InvalidRequest: ``weights`` names a fault that needs more than chance to be made.

    Example:
        >>> some_faults(4711, {"eu-1": 4}, share=1) == some_faults(4711, {"eu-1": 4}, share=1)
        True
    """
    weights = weights or {}
    unknown = [each.__name__ for each in weights if each not in _MENU]
    if unknown:
        names = ", ".join(each.__name__ for each in _MENU)
        raise InvalidRequest(
            f"'weights' must name faults of {names} (got {name})" for name in unknown
        )
    chosen = _weights(seed, weights)
    found: dict[str, tuple[Fault, ...]] = {}
    for cluster, hosts in clusters.items():
        for name in names_of(cluster, hosts):
            chance = Random(f"{seed}/{name}/faults")
            if not any(chosen.values()) or chance.random() >= share:
                continue
            kinds = chance.choices(
                list(chosen), weights=list(chosen.values()), k=chance.choice((1, 1, 2))
            )
            found[name] = tuple(_MENU[kind](chance) for kind in dict.fromkeys(kinds))
    return found


def _weights(seed: int, given: Mapping[type[Fault], float]) -> dict[type[Fault], float]:
    """Each kind has its own stream, too: a new kind does not change which others are on."""
    found: dict[type[Fault], float] = {}
    for kind in _MENU:
        chance = Random(f"{seed}/{kind.__name__}/weight")
        by_chance = chance.random() if chance.random() < 0.5 else 0.0
        found[kind] = given.get(kind, 0.0 if kind in _ONLY_IF_ASKED else by_chance)
    return found


def names_of(cluster: str, hosts: int | Sequence[str]) -> list[str]:
    """The names of a cluster's hosts, given or made."""
    if isinstance(hosts, int):
        return [f"{cluster}-{n}" for n in range(1, hosts + 1)]
    return list(hosts)
