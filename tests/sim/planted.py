"""Planted bugs: the simulation must find them, or it proves nothing.

Each is a small change of the source, of a kind that people make. It is applied to a copy, on which only the
general simulation runs, from seed 0 on. The same seeds pass on the source as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "explanation" / "proof.md"


@attrs.frozen
class Bug:
    """A change of one file: each old text, once in it, becomes a new one."""

    file: str
    changes: tuple[tuple[str, str], ...]


def _bug(file: str, *texts: str) -> Bug:
    return Bug(file, tuple(zip(texts[::2], texts[1::2], strict=True)))


BUGS: Mapping[str, Bug] = {
    # How many may fail
    "the budget stops one failure too late": _bug(
        "policy/_rollout_policy.py",
        "if counted > self.failures and (trusted or not self.failures_in_percent):\n            return f",
        "if counted > self.failures + 1 and (trusted or not self.failures_in_percent):\n            return f",
    ),
    "the budget stops at the allowed number": _bug(
        "policy/_rollout_policy.py",
        "if counted > self.failures and (trusted or not self.failures_in_percent):\n            return f",
        "if counted >= self.failures and (trusted or not self.failures_in_percent):\n            return f",
    ),
    "a strict budget admits one too many": _bug(
        "policy/_rollout_policy.py",
        "if counted > self.failures and (trusted or not self.failures_in_percent):\n            return False",
        "if counted > self.failures + 1 and (trusted or not self.failures_in_percent):\n            return False",
    ),
    "unreachable hosts are no failures": _bug(
        "policy/_rollout_policy.py",
        'counted, said = failed + unreachable, "failed"',
        'counted, said = failed, "failed"',
    ),
    "a wave that failed whole goes on": _bug(
        "policy/_cluster.py", "failures == group.acted > 0", "failures > group.acted > 0"
    ),
    "the total budget is not looked at": _bug(
        "policy/_rollout.py",
        "        why = _total_exceeded(state)\n        if why is not None:\n",
        "        why = _total_exceeded(state)\n        if False:\n",
    ),
    "a unit that a repair needs again is given to another": _bug(
        "policy/_grants.py",
        "    left = max(view.risks - _certain(view), 0)\n",
        "    left = max(view.risks - failures_of(view), 0)\n",
    ),
    "failures free their share of the total budget": _bug(
        "policy/_grants.py",
        "left = at_risk - certain - sum",
        "left = at_risk - sum",
    ),
    "what is to be given back is granted to another at once": _bug(
        "policy/_grants.py",
        "slots = _given(shares, {view.name: flying(view) for view in turn}, free)",
        "pass",
    ),
    "too many in flight are kept up": _bug("policy/_grants.py", "over = max(-room, 0)", "over = 0"),
    "a unit at stake is granted to another": _bug(
        "policy/_grants.py",
        "units = _given(shares, {view.name: _at_stake(view) for view in turn}, left)",
        "pass",
    ),
    "a cluster that stops gives back slots that are in use": _bug(
        "policy/_cluster.py",
        "return state.in_flight + may_start + len(state.parked)",
        "return may_start + len(state.parked)",
    ),
    "a stopped cluster leaves the others running": _bug(
        "policy/_rollout.py", 'if state.policy.stop_scope == "rollout":', "if False:"
    ),
    "a repaired host stays counted": _bug(
        "policy/_tally.py", "return _counted(tally, wave, state, -1)", "return tally"
    ),
    "duplicates are counted twice": _bug(
        "policy/_cluster.py",
        "    if not flies(state, event.host):\n        return state, ()  # told twice\n",
        "",
    ),
    # How wide
    "max_parallel is off by one": _bug(
        "policy/_cluster.py",
        "return state.in_flight < min(slots, state.plan.max_parallel)",
        "return state.in_flight <= min(slots, state.plan.max_parallel)",
    ),
    "held hosts are forgotten in max_out_of_service": _bug(
        "policy/_tally.py",
        "return tally.in_flight + len(tally.held) - sum(host in tally.held for host in tally.repairing)",
        "return tally.in_flight",
    ),
    "max_per_domain is off by one": _bug(
        "policy/_cluster.py",
        "if out[plan.domains[host]] < plan.max_per_domain:",
        "if out[plan.domains[host]] <= plan.max_per_domain:",
    ),
    "max_parallel_clusters forgets who runs": _bug(
        "policy/_grants.py", "max(at_once - len(running), 0)", "max(at_once, 0)"
    ),
    # In which order
    "a wave begins beside the one before it": _bug(
        "policy/_cluster.py",
        "if state.in_flight or state.at_barrier or _room_in_group(state) or not _left(state):",
        "if state.at_barrier or _room_in_group(state) or not _left(state):",
    ),
    "only the pilots soak": _bug(
        "policy/_cluster.py",
        "if state.plan.soaks and state.group.started and not state.soaked:",
        "if state.plan.soaks and not state.group.wave and not state.soaked:",
    ),
    "pilots count whatever came of them": _bug(
        "policy/_cluster.py",
        "return group.counting + state.in_flight < group.limit",
        "return group.started < group.limit",
    ),
    "a host that has started is skipped": _bug(
        "policy/_cluster.py",
        "if state.codes[host : host + 1] == CODES[HostState.NOT_STARTED]:",
        "if state.codes[host : host + 1]:",
    ),
    # When
    "repairs ignore a pause": _bug(
        "policy/_cluster.py",
        'begins = repair.how == "restore" or _may_go_on(state, repair.host)',
        "begins = True",
    ),
    "the window is ignored": _bug(
        "policy/_cluster.py",
        "if state.draining or state.paused is not None or not state.window_open:\n        return False",
        "if state.draining or state.paused is not None:\n        return False",
    ),
    "hosts start while it drains": _bug(
        "policy/_cluster.py",
        "if state.draining or state.paused is not None or not state.window_open:\n        return False",
        "if state.paused is not None or not state.window_open:\n        return False",
    ),
    "orders take effect one by one": _bug(
        "policy/_cluster.py",
        "state = evolve(state, hearing=True)",
        "state = evolve(state, hearing=False)",
    ),
    "an old repair is obeyed again": _bug(
        "policy/_cluster.py",
        "if event.number <= state.repaired:",
        "if event.number < state.repaired:",
    ),
    "hosts start after an abort that is heard before its cancel": _bug(
        "policy/_rollout.py",
        "return state.window_open and holds and state.aborting is None",
        "return state.window_open and holds",
    ),
    "a resume overrides an abort": _bug(
        "policy/_rollout.py",
        "        state = evolve(state, paused=None)\n        for view in state.clusters:",
        '        state = evolve(state, paused=None, phase="running", aborting=None)\n'
        "        for view in state.clusters:",
    ),
    "PAUSED is said too early": _bug(
        "policy/_cluster.py",
        "return state.paused is not None and state.in_flight == len(state.halted)",
        "return state.paused is not None and state.in_flight <= len(state.halted) + 1",
    ),
    "a host halts in the middle of its update": _bug(
        "policy/_host.py",
        'return state.way == "forward" and not state.touched',
        'return state.way == "forward"',
    ),
    # Whom
    "a gate that is passed opens all the others": _bug(
        "policy/_rollout.py",
        "if gate is None or gate in state.passed:\n            state = with_cluster",
        "if gate is None or state.passed:\n            state = with_cluster",
    ),
    "a wave that is opened opens all the others": _bug(
        "policy/_cluster.py",
        "if wave in state.plan.gates and wave not in state.opened and _behind_gate",
        "if wave in state.plan.gates and not state.opened and _behind_gate",
    ),
    "the gate before a ring is not asked": _bug(
        "policy/_grants.py",
        "if _guarded(state, number, ring) is not None:\n        return []",
        "if False:\n        return []",
    ),
    "votes are counted by list": _bug(
        "policy/_approval.py",
        "    if is_repeat(ballot, vote):\n        return ballot\n",
        "",
        "others = (each for each in ballot.votes if canonical(each.by) != canonical(vote.by))",
        "others = ballot.votes",
    ),
    "alice and ALICE are two people": _bug(
        "policy/_approval.py",
        "if canonical(earlier.by) == canonical(vote.by):",
        "if earlier.by == vote.by:",
        "others = (each for each in ballot.votes if canonical(each.by) != canonical(vote.by))",
        "others = (each for each in ballot.votes if each.by != vote.by)",
    ),
    "the requester votes": _bug(
        "policy/_approval.py",
        "if ballot.requester and who == canonical(ballot.requester):",
        "if ballot.requester == who.upper():",
    ),
    "votes for another plan count": _bug(
        "policy/_approval.py",
        "if vote.digest and ballot.digest is not None and vote.digest != ballot.digest:",
        "if vote.digest and not ballot.digest and vote.digest != ballot.digest:",
    ),
    "a reject is one vote less": _bug(
        "policy/_approval.py",
        "if any(not vote.approve for vote in ballot.votes):",
        "if ballot.votes and not any(vote.approve for vote in ballot.votes):",
    ),
    "empty means all": _bug(
        "policy/_rollout.py", "if not event.hosts and not state.limits.allow_empty:", "if False:"
    ),
    "a host may be in two clusters": _bug(
        "policy/_rollout.py", "if there != event.cluster:", "if False:"
    ),
    # Hosts
    "closers are skipped on cancel": _bug(
        "policy/_host.py",
        "    return _open_closer(state, returning=True)\n\n\ndef _recover",
        "    return None if state.cancelled else _open_closer(state, returning=True)\n\n\ndef _recover",
    ),
    "a step is open only when it has ended well": _bug(
        "policy/_host.py",
        'open=_with_open(state, step) if step.kind == "takes" else state.open,',
        "open=state.open,",
        "open=_still_open(state, step),",
        'open=_with_open(state, step) if step.kind == "takes" else _still_open(state, step),',
    ),
    "parked hosts are not restored when it stops": _bug(
        "policy/_cluster.py",
        "state = evolve(state, repairs=tuple(restores))",
        "state = evolve(state, repairs=tuple(restores)[:0])",
    ),
    "the first failure is masked": _bug(
        "policy/_host.py",
        'if state.failure is None and (state.way == "forward" or state.not_needed):',
        "if True:",
    ),
    "a checkpoint is kept for the wrong step": _bug(
        "policy/_host.py",
        "retried = state.retrying is not None and state.retrying.step == step.name",
        "retried = state.retrying is not None",
        "retrying=failure if step is None else None,",
        "retrying=failure,",
    ),
    "a host that is not healthy returns to service": _bug(
        "policy/_host.py",
        "return _open_closer(state, returning=True) if state.healthy else None",
        "return _open_closer(state, returning=True)",
    ),
    "a lost attempt proves that nothing changed": _bug(
        "policy/_host.py", "(event.changed or event.attempt > 1)", "event.changed"
    ),
    "a host in maintenance is returned to service": _bug(
        "policy/_host.py", 'if step.kind == "takes" and step.name in state.already:', "if False:"
    ),
    "a reboot is believed": _bug(
        "policy/_host.py", "if event.boot_id == before:", "if event.boot_id < before:"
    ),
    "a reboot that is pending is forgotten": _bug(
        "policy/_host.py",
        "    if state.reboot_required:\n        return HostState.REBOOT_PENDING\n",
        "",
    ),
    "a torn update is gone on with": _bug(
        "policy/_host.py",
        "    if state.killed is not None and state.failure is not None:\n"
        '        return evolve(state, way="ended"), (EndHost(),)\n',
        "",
    ),
    "a shielded step is interrupted": _bug(
        "policy/_host.py", 'if step.shielded or step.kind == "closes":', 'if step.kind == "closes":'
    ),
    # From run to run
    "the next run forgets that it has soaked": _bug(
        "models/_carried.py",
        "            soaked=self.soaked,\n            opened=frozenset",
        "            opened=frozenset",
    ),
    "the next run forgets what is held": _bug(
        "models/_carried.py",
        "held=frozenset(host for host, code in enumerate(self.held) if code == _HELD),",
        "held=frozenset(),",
    ),
}


@attrs.frozen
class Caught:
    """What came of one planted bug."""

    name: str
    by: str | None
    """The invariant, or what the code itself raised. None: it was not caught."""
    said: str
    seed: int | None
    runs: int
    seconds: float


def catch(name: str, *, seconds: float = 60.0, seeds: int | None = None) -> Caught:
    """Plants a bug in a copy, and runs the general simulation until something is broken."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        _plant(source / "temporal_patching" / BUGS[name].file, BUGS[name])
        return _simulated(name, source, seconds, seeds)


def _plant(file: Path, bug: Bug) -> None:
    text = file.read_text()
    for old, new in bug.changes:
        if text.count(old) != 1:
            raise ValueError(
                f"{bug.file} has {text.count(old)} times what is to be changed: {old!r}"
            )
        text = text.replace(old, new)
    file.write_text(text)


def _simulated(name: str, source: Path, seconds: float, seeds: int | None) -> Caught:
    command = [sys.executable, "-m", "tests.sim", "run", "--json", "--failures", "1"]
    command += ["--seconds", str(seconds)]
    command += ["--seeds", str(seeds)] if seeds is not None else []
    path = os.pathsep.join([str(source), str(ROOT)])
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=seconds * 20 + 300,  # the seconds are those of a core that is free
        check=False,
    )
    if not done.stdout:
        raise RuntimeError(f"{name}: the simulation did not run: {done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    if not Path(told["source"]).is_relative_to(source):
        raise RuntimeError(f"{name}: not the copy was simulated, but {told['source']}")
    return Caught(
        name=name,
        by=told["invariant"],
        said=told["said"],
        seed=told["seed"],
        runs=told["runs"],
        seconds=told["seconds"],
    )


def main(names: Iterable[str], *, seconds: float, write: bool) -> int:
    """Plants one bug after the other, and prints the table."""
    wanted = [name for name in BUGS if not names or any(part in name for part in names)]
    caught = []
    for name in wanted:
        each = catch(name, seconds=seconds)
        print(_line(each), flush=True)
        caught.append(each)
    most = max((each.runs for each in caught), default=0)
    clean = _simulated("nothing", ROOT / "src", 3600.0, most)
    print(f"nothing planted, the same {clean.runs:,} seeds: {clean.by or 'nothing is broken'}")
    missed = [each for each in caught if each.by is None]
    if write and not missed and clean.by is None:
        PAGE.write_text(page(PAGE.read_text(), caught, clean))
        print(f"written: {PAGE.relative_to(ROOT)}")
    return 1 if missed or clean.by is not None else 0


def _line(each: Caught) -> str:
    by = each.by or "NOT CAUGHT"
    return f"| {each.name} | {by} | {each.runs:,} | {each.seconds:.1f} |"


def page(text: str, caught: Iterable[Caught], clean: Caught) -> str:
    """The page of the documentation, its two tables made anew."""
    from .invariants import INVARIANTS

    rules = [f"| {name} | {what} |" for name, what in INVARIANTS.items()]
    text = _with_table(text, "rules", ["| | what holds |", "| --- | --- |", *rules])
    head = ["| planted | broken | rollouts until then | seconds |", "| --- | --- | ---: | ---: |"]
    nothing = f"| nothing | nothing | {clean.runs:,} | {clean.seconds:.1f} |"
    return _with_table(text, "planted", [*head, *map(_line, caught), nothing])


def _with_table(text: str, name: str, lines: Iterable[str]) -> str:
    before, mark, rest = text.partition(f"<!-- table: {name} -->\n\n")
    _, end, after = rest.partition("\n\n")
    if not end:
        raise ValueError(f"{PAGE} has no table {name!r}")
    return "".join([before, mark, "\n".join(lines), end, after])
