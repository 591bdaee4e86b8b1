"""Why a mutant that nobody notices is no bug. A reason holds for the lines that it was written for."""

from __future__ import annotations

from collections.abc import Mapping

_GIVEN = "no bug: whoever makes one gives it, the default is never used"
_EMPTY = "no bug: an empty span is too short for any host"
_WORDS = "the words only, at the very moment of a change: which calendar is named first, what is said beside it"

REASONS: Mapping[str, str] = {
    "_host._still_retrying: return None if again is not None and again.step == ended.name else again → "
    "return None if again is not None and again.step != ended.name else again": (
        "no bug: before a step runs a second time another one has ended or failed, and it is forgotten then"
    ),
    "_host._next: checkpoint = state.retrying.checkpoint if retried and state.retrying is not None else None "
    "→ checkpoint = state.retrying.checkpoint if retried or state.retrying is not None else None": (
        "no bug: what is retried runs first, and is forgotten when it ends"
    ),
    "_rollout_policy.Allowed: stop_on_failed_wave: bool = True → stop_on_failed_wave: bool = False": _GIVEN,
    "_rollout_policy.Allowed: failures_in_percent: bool = False → failures_in_percent: bool = True": _GIVEN,
    "_rollout_policy.Allowed: unreachable_in_percent: bool = False → "
    "unreachable_in_percent: bool = True": _GIVEN,
    "_rollout_policy.Allowed: strict: bool = False → strict: bool = True": _GIVEN,
    "_rollout_policy.ClusterPlan: soaks: bool = False → soaks: bool = True": _GIVEN,
    "_tally.ended: tally: TallyT, host: int, state: HostState, *, left_out: bool, parked: bool = False → "
    "tally: TallyT, host: int, state: HostState, *, left_out: bool, parked: bool = True": _GIVEN,
    "_cluster._without_wave: return evolve(state, codes=bytes(codes), group=Group(wave=wave, limit=0), "
    "soaked=True) → return evolve(state, codes=bytes(codes), group=Group(wave=wave, limit=0), "
    "soaked=False)": "no bug: a group of which nothing has started does not soak anyway",
    "_cluster._fill: state, more = _stop(state, _why_stuck(state), cancel=False) → "
    "state, more = _stop(state, _why_stuck(state), cancel=True)": (
        "no bug: nothing is in flight here, so there is nothing to cancel"
    ),
    "_rollout._at_gates: waiting = [view for view in state.clusters if view.at_gate and "
    'view.phase == "running"] → waiting = [view for view in state.clusters if view.at_gate or '
    'view.phase == "running"]': (
        "no bug: one that has ended waits at no gate, and before wave 0 there is none"
    ),
    "_window._opening: spans = [span for span in _between(_united(chain(*closed))) if now < "
    "span[1]] → spans = [span for span in _between(_united(chain(*closed))) if now <= "
    "span[1]]": "no bug: what ends now has nothing left in which a host could start",
    "_window._between: return [span for span in zip(edges[::2], edges[1::2], strict=True) if "
    "span[0] < span[1]] → return [span for span in zip(edges[::2], edges[1::2], strict=True) "
    "if span[0] <= span[1]]": _EMPTY,
    "_window._why_closed: if any(now < opens <= now + HORIZON for opens, _ in spans): → if "
    "any(now <= opens <= now + HORIZON for opens, _ in spans):": _WORDS,
    "_window._covers: return any(start <= moment < end for start, end in spans) → return "
    "any(start <= moment <= end for start, end in spans)": _WORDS,
    "_window._united: if united and start <= united[-1][1]: → if united and start < "
    "united[-1][1]:": _EMPTY,
    "_window._why_closed: if any(now < opens <= now + HORIZON for opens, _ in spans): → if "
    "any(now < opens < now + HORIZON for opens, _ in spans):": _WORDS,
    "_window._moment: seconds, True, key=lambda each: _shown(early + "
    "timedelta(seconds=each), zone) >= local → seconds, True, key=lambda each: _shown(early "
    "+ timedelta(seconds=each), zone) > local": "no bug: clocks never show the time that they skip",
    "_window._why_open: if until is None or closes is None: → if until is None and closes is "
    "None:": "no bug: both are there, or neither is",
    "_window._between: return [span for span in zip(edges[::2], edges[1::2], strict=True) if "
    "span[0] < span[1]] → return [span for span in zip(edges[::2], edges[1::2], "
    "strict=False) if span[0] < span[1]]": "no bug: each beginning has its end",
    "_rollout_state.RolloutState: window_open: bool = True → window_open: bool = False": _GIVEN,
    "_order._spread: for each, host in zip(turns, hosts, strict=True): → for each, host in zip(turns, hosts, "
    "strict=False):": "no bug: each host has its turn",
}
