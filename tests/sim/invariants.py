"""What must hold in every rollout, whatever happens: S1 to S10 and L1 to L3.

``Watch`` looks on and keeps books of its own, from what was asked, started, done and told: nothing that it
judges by is worked out by the code under test. It looks at the machines' states only to judge them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from temporal_patching.policy import FailureBudget, HostState, Outcome, RolloutPolicy, Step
from temporal_patching.policy import _cluster as cluster_machine
from temporal_patching.policy import _host as host_machine
from temporal_patching.policy import _rollout as machine
from temporal_patching.policy import _rollout_state as data
from temporal_patching.policy._host import HostEvent, RunStep, StepBroke, StepEnded
from temporal_patching.policy._tally import CODES

from .fleet import NEW, TORN, Effect
from .scenario import DIGEST, REQUESTER, must_be_refused

if TYPE_CHECKING:
    from .world import Action, Cluster, Flight, Orders, World

INVARIANTS: Mapping[str, str] = {
    "S1": "never more hosts in flight, out of service or down in one domain than is allowed",
    "S2": "no host starts before the gates, passed by enough distinct approvers of this plan",
    "S3": "no start while paused, stopped, aborted, draining, outside a window, or over the budget",
    "S4": "no wave before the one before it has ended and soaked, none before the pilots",
    "S5": "one holder of a host at a time",
    "S6": "steps in order, at least once if reported, with their own checkpoint; nothing on other hosts",
    "S7": "one final state for each host of the plan, and the sums agree",
    "S8": "no host out of service that the report does not name, none returned that is not healthy",
    "S9": "the report is never better than the truth",
    "S10": "what is final stays; nothing counts twice, whatever is doubled or overtaken",
    "L1": "once all faults are mended it ends, within a bound",
    "L2": "resumed, it goes on",
    "L3": "an abort ends within the steps that give back",
}

SUCCESS = (HostState.PATCHED, HostState.UNCHANGED)
FAILURE = (HostState.FAILED, HostState.UNREACHABLE)
TRIED = (HostState.PATCHED, HostState.REBOOT_PENDING, *FAILURE)


class Broken(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, moment: int, what: str) -> None:
        super().__init__(
            f"{invariant} at moment {moment}: {what} ({INVARIANTS.get(invariant, '')})"
        )
        self.invariant = invariant


@attrs.define(kw_only=True)
class HostBook:
    """What was seen of one host."""

    state: str = "waits"
    """``waits``, ``flies``, ``parked`` or ``ended``."""
    became: HostState | None = None
    wave: int = 0
    policy_number: int = 0
    """Of the policy that held when it was last started or gone on with."""
    again: bool = False
    """It was parked, and goes on: for the barriers it had ended."""
    restoring: bool = False
    left_out: bool = False
    began_update: bool = False
    done: set[str] = attrs.field(factory=set)
    """Steps whose last run went well, or was accepted."""
    accepted: set[str] = attrs.field(factory=set)
    already: set[str] = attrs.field(factory=set)
    """What its preconditions found taken away before anything of ours had run."""
    failed_at: str = ""
    saved: object | None = None
    """What the step that failed had saved last."""
    given: object | None = None
    """The checkpoint that the step that runs was given."""
    expects: tuple[str, object | None] | None = None
    """The step that a retry begins with, and the checkpoint it must have."""
    tries: int = 1
    asked: int = 0
    """How often a person has said what is to be done with it."""
    answered: int = 0
    reboots: int = 0
    open: dict[str, str] = attrs.field(factory=dict)
    """Taking steps that have run, and the closer of each that has not run since."""
    killed: bool = False
    skipped: bool = False
    first_failure: str = ""


@attrs.define(kw_only=True)
class ClusterBook:
    """What was seen of one cluster."""

    hosts: list[HostBook]
    heard: Orders | None = None
    draining: bool = False
    skip: set[int] = attrs.field(factory=set)
    skip_waves: set[int] = attrs.field(factory=set)
    wave: int = -1
    """The last wave of which a host has started."""
    started: dict[int, int] = attrs.field(factory=dict)
    soaked: set[int] = attrs.field(factory=set)
    barrier: bool = False
    """The pilots have ended, and were judged."""
    lowered: bool = False
    needs: int | None = None


@attrs.define(kw_only=True)
class GateBook:
    """The votes at one gate, by person."""

    approved: dict[str, str] = attrs.field(factory=dict)
    rejected: set[str] = attrs.field(factory=set)


class Watch:
    """Looks on, and raises ``Broken`` as soon as something does not hold."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.books = {
            name: ClusterBook(
                hosts=[
                    HostBook(state="ended", became=HostState.GONE)
                    if host.traits.gone
                    else HostBook()
                    for host in cluster.hosts
                ]
            )
            for name, cluster in world.clusters.items()
        }
        self.gates: dict[str, GateBook] = {}
        self.forgotten: set[str] = set()
        self.refused = must_be_refused(world.scenario)
        self.planned_names: set[str] = set()
        self.told: dict[str, data.ClusterProgressed | data.ClusterEnded] = {}
        self.aborted = ""
        self.mended = False

    def broken(self, invariant: str, what: str) -> Broken:
        """The failure, with its moment."""
        return Broken(invariant, self.world.moment, what)

    # Gates

    def voted(self, gate: str, by: str, approve: bool, digest: str) -> None:
        """Somebody has voted, whether it counts or not."""
        book = self.gates.setdefault(gate, GateBook())
        who = " ".join(by.split()).casefold()
        policy = self.world.scenario.gates[gate]
        if who not in policy.approvers or who == REQUESTER:
            return
        if approve and policy.bound_to_plan and not digest:
            return
        if digest and digest != DIGEST:
            return
        if approve:
            book.approved[who] = digest
        else:
            book.rejected.add(who)

    def gate_forgotten(self, gate: str) -> None:
        """It is asked again: what was voted before does not count."""
        self.gates.pop(gate, None)
        self.forgotten.add(gate)

    def _is_passed(self, gate: str) -> bool:
        book = self.gates.get(gate, GateBook())
        quorum = self.world.scenario.gates[gate].quorum
        return len(book.approved.keys() - book.rejected) >= quorum and not book.rejected

    def _check_gates(self, cluster: Cluster, host: str, wave: int) -> None:
        scenario, book = self.world.scenario, self.books[cluster.name]
        needed = ["start"]
        for number, ring in enumerate(scenario.policy.rings, start=1):
            if cluster.name in ring:
                needed.append(f"ring-{number}")
                for earlier in scenario.policy.rings[: number - 1]:
                    for name in earlier:
                        if not self.world.clusters[name].told_end:
                            raise self.broken(
                                "S4", f"{host} starts, but {name} is of an earlier ring"
                            )
        for each in range(1, wave + 1):
            if each not in book.skip_waves:
                name = "promote" if each == 1 else f"wave-{each}"
                own = f"{name}/{cluster.name}"
                needed.append(own if own in scenario.gates else name)
        for gate in needed:
            if gate not in scenario.gates or self._is_passed(gate):
                continue
            if gate in self.forgotten and cluster.coming:
                continue  # it has not heard yet that the people are asked again
            votes = self.gates.get(gate, GateBook())
            raise self.broken(
                "S2",
                f"{host} starts in wave {wave}, but gate {gate!r} has "
                f"{len(votes.approved)} approvals and {len(votes.rejected)} rejects of its people",
            )

    # The rollout

    def asked(self, asked: object) -> None:
        """A person's verb was accepted."""
        self.world.seen[f"verb {type(asked).__name__}"] += 1
        if isinstance(asked, data.AbortRequested):
            self.world.seen[f"abort while {machine.shown_phase(self.world.state)}"] += 1
            self.aborted = "kill" if asked.now or self.aborted == "kill" else "cancel"
        elif isinstance(asked, data.RepairRequested):
            cluster, at = self.world.where[asked.host]
            self.books[cluster.name].hosts[at].asked += 1
        elif isinstance(asked, data.LimitsRequested):
            for book in self.books.values():
                book.lowered = True

    def rollout_decided(self, before: data.RolloutState, event: data.RolloutEvent) -> None:
        """The rollout has decided: what is final stays."""
        now = self.world.state
        order = ("listing", "gate", "running", "stopping", "ended")
        if order.index(now.phase) < order.index(before.phase):
            raise self.broken("S10", f"the rollout goes back from {before.phase} to {now.phase}")
        if before.outcome not in (None, now.outcome) and now.outcome is not Outcome.ABORTED:
            raise self.broken("S10", f"outcome {before.outcome} becomes {now.outcome}")
        gone = before.passed - now.passed
        if gone and not (isinstance(event, data.WindowChanged) and event.stale):
            raise self.broken("S10", f"passed gates are not passed any more: {sorted(gone)}")
        if self.aborted and now.phase == "running":
            raise self.broken("S3", "it was aborted, and runs")
        if self.refused and now.phase in ("gate", "running"):
            raise self.broken("S6", f"the plan is not refused: {self.refused}")
        if isinstance(event, (data.ClusterProgressed, data.ClusterEnded)):
            self._check_told(event)
        for was, view in zip(before.clusters, now.clusters, strict=True):
            if was.stop is not None and view.stop is None:
                raise self.broken("S10", f"{view.name} was stopped, and is not any more")
            if was.phase == "ended" and view.phase != "ended":
                raise self.broken("S10", f"{view.name} had ended")

    def _check_told(self, event: data.ClusterProgressed | data.ClusterEnded) -> None:
        """What it was told has its consequence."""
        now = self.world.state
        self.told[event.cluster] = event
        if now.phase != "running":
            return
        if isinstance(event, data.ClusterProgressed):
            stopped = event.stopped is not None
        else:
            stopped = event.outcome in (Outcome.STOPPED, Outcome.ABORTED)
        if stopped and now.policy.stop_scope == "rollout":
            raise self.broken("S3", f"{event.cluster} has stopped, and the rollout runs")
        budget = now.policy.total_failure_budget
        if budget is None:
            return
        failed = sum(each.failed for each in self.told.values())
        far = sum(each.unreachable for each in self.told.values())
        tried = sum(each.acted for each in self.told.values())
        hosts = sum(len(book.hosts) for book in self.books.values())
        why = exceeded(budget, hosts, failed, far, tried)
        if why is not None:
            raise self.broken("S3", f"over all clusters {why}, and the rollout runs")

    def planned(self, cluster: Cluster) -> None:
        """A cluster tells its list."""
        self.planned_names.add(cluster.name)

    # A cluster

    def heard(self, cluster: Cluster, orders: Orders) -> None:
        """A cluster takes up orders."""
        book = self.books[cluster.name]
        book.heard = orders
        names = {host.name: at for at, host in enumerate(cluster.hosts)}
        if orders.stop is None:
            book.skip |= {names[name] for name in orders.skip if name in names}
            begun = {wave for wave, started in book.started.items() if started}
            book.skip_waves |= {
                wave for wave in orders.skip_waves if wave > book.wave and wave not in begun
            }
        for at in book.skip:
            if book.hosts[at].state == "waits":
                book.hosts[at].skipped = True
        seen = self.world.seen
        seen["a pause heard in mid-procedure"] += orders.paused is not None and any(
            flight.running is not None for flight in cluster.flights.values()
        )

    def drains(self, cluster: Cluster, draining: bool) -> None:
        """A cluster is to continue as new, or has."""
        self.books[cluster.name].draining = draining

    def soaked(self, cluster: Cluster, wave: int) -> None:
        """The soak after a group is over."""
        self.books[cluster.name].soaked.add(wave)

    def cluster_decides(
        self,
        cluster: Cluster,
        before: cluster_machine.ClusterState,
        event: cluster_machine.ClusterEvent,
        commands: Sequence[cluster_machine.ClusterCommand],
    ) -> None:
        """The cluster has decided; its commands are not carried out yet."""
        now, book = cluster.state, self.books[cluster.name]
        asked = isinstance(event, cluster_machine.StopRequested)
        if before.stopped is None and now.stopped is not None and not asked:
            self._stops_by_itself(cluster)
        if now.group.wave and not before.group.wave and cluster.listed:
            self._pilots_ended(cluster)  # judged now: one that is repaired later is not replaced
        for command in commands:
            if isinstance(command, cluster_machine.StartHost):
                self._starts(cluster, command.host)
            elif isinstance(command, cluster_machine.RepairHost):
                self._repairs(cluster, command)
            elif isinstance(command, (cluster_machine.BeginSoak, cluster_machine.AskGate)):
                if now.in_flight:
                    raise self.broken("S4", f"{cluster.name} is at a barrier with hosts in flight")
                self._pilots_ended(cluster)
        need = cluster_machine.needs(now)
        if book.needs is not None and need > book.needs:
            raise self.broken("S1", f"{cluster.name} needs {need} slots, it had said {book.needs}")
        book.needs = need

    def _stops_by_itself(self, cluster: Cluster) -> None:
        """It had a reason: a budget is exceeded, all of a group failed, or nothing may start for ever."""
        self.world.seen["a cluster stopped by itself"] += 1
        book = self.books[cluster.name]
        policy = book.heard.policy if book.heard is not None else self.world.scenario.policy
        size = len(cluster.hosts)
        begun = [each for each in book.hosts if each.state != "waits"]
        pilots = min(amount_up(policy.pilot_hosts, size), size)
        first = [each for each in begun if each.wave == 0]
        if over(policy.failure_budget, size, book.hosts) or over(
            policy.pilot_budget, pilots, first
        ):
            return
        group = [each.became for each in begun if each.wave == max(book.wave, 0)]
        if len(group) >= 2 and all(each in FAILURE for each in group if each in TRIED):
            return
        flies = any(each.state == "flies" for each in book.hosts)
        if not flies and any(each.left_out for each in book.hosts):
            self.world.seen["a cluster was stuck"] += 1
            return
        raise self.broken("S3", f"{cluster.name} stops, but no budget is exceeded")

    def _starts(self, cluster: Cluster, at: int) -> None:
        host, book = cluster.hosts[at], self.books[cluster.name]
        mine, wave = book.hosts[at], cluster.state.group.wave
        if self.refused:
            raise self.broken("S6", f"{host.name} starts, but {self.refused}")
        if self.planned_names != set(self.books):
            raise self.broken("S2", f"{host.name} starts before all lists are made")
        if mine.state == "flies":
            raise self.broken("S5", f"{host.name} starts, and is in flight")
        if mine.state != "waits":
            raise self.broken("S6", f"{host.name} starts, but it has ended as {mine.became}")
        if mine.skipped or wave in book.skip_waves:
            raise self.broken("S6", f"{host.name} starts, but it was to be skipped")
        self._check_may_act(cluster, host.name)
        self._check_gates(cluster, host.name, wave)
        self._check_wave(cluster, host.name, wave)
        self._check_budgets(cluster, host.name, wave)
        mine.state, mine.wave = "flies", wave
        mine.policy_number = book.heard.policy_number if book.heard is not None else 0
        book.wave = wave
        book.started[wave] = book.started.get(wave, 0) + 1
        self._check_width(cluster, at, held=False)
        self._check_strict(host.name)
        self._check_strict_cluster(cluster, host.name, wave)
        self._check_clusters(host.name)

    def _repairs(self, cluster: Cluster, command: cluster_machine.RepairHost) -> None:
        host, mine = cluster.hosts[command.host], self.books[cluster.name].hosts[command.host]
        if mine.state != "parked":
            raise self.broken("S5", f"{host.name} is {command.how}d, but it is {mine.state}")
        if cluster.state.stopped is None:
            mine.answered += 1
            if mine.answered > mine.asked:
                raise self.broken("S10", f"{host.name} is {command.how}d, and nobody asked for it")
        held = mine.left_out
        mine.state, mine.restoring, mine.again = "flies", command.how == "restore", True
        orders = self.books[cluster.name].heard
        mine.policy_number = orders.policy_number if orders is not None else 0
        if command.how == "accept":
            mine.done.add(mine.failed_at)
            mine.accepted.add(mine.failed_at)
            mine.first_failure = ""
            if mine.failed_at == "perform_update":
                mine.began_update = True
        if command.how == "retry":
            self._retries(cluster, command, mine)
        if command.how != "restore":
            self._check_may_act(cluster, host.name)
            self._check_width(cluster, command.host, held=held)
            self._check_strict(host.name)

    def _retries(
        self, cluster: Cluster, command: cluster_machine.RepairHost, mine: HostBook
    ) -> None:
        names = [step.name for step in self.world.scenario.steps]
        begin = command.step if command.step is not None else mine.failed_at
        if names.index(begin) > names.index(mine.failed_at):
            begin, saved = mine.failed_at, mine.saved  # it has failed earlier meanwhile
        else:
            saved = mine.saved if command.step is None else None
        mine.done -= set(names[names.index(begin) :])
        mine.expects = (mine.failed_at, saved)
        mine.tries += 1
        mine.first_failure = ""

    def _check_may_act(self, cluster: Cluster, host: str) -> None:
        book = self.books[cluster.name]
        orders = book.heard
        if orders is None or orders.slots == 0:
            raise self.broken("S2", f"{host} starts, but the rollout has not granted a slot")
        if orders.stop is not None:
            raise self.broken("S3", f"{host} starts, but its cluster was told to stop")
        if orders.kill is not None:
            raise self.broken("S3", f"{host} starts, but its cluster was told of an abort")
        if cluster.cancelled:
            raise self.broken("S3", f"{host} starts, but its cluster was cancelled")
        if orders.paused is not None:
            raise self.broken("S3", f"{host} starts, but its cluster is paused")
        if not orders.window_open:
            raise self.broken("S3", f"{host} starts, but the windows are closed")
        if book.draining:
            raise self.broken("S3", f"{host} starts, but its cluster drains")
        if machine.shown_phase(self.world.state) == "paused":
            raise self.broken("S3", f"{host} starts, but the rollout says that it is paused")

    def _check_width(self, cluster: Cluster, at: int, *, held: bool) -> None:
        """After a start: how many are in flight, out of service, down in one domain."""
        book, host = self.books[cluster.name], cluster.hosts[at]
        orders = book.heard
        assert orders is not None
        policy, size = orders.policy, len(cluster.hosts)
        flies = [each for each in book.hosts if each.state == "flies"]
        wide = max(amount(policy.max_parallel, size), 1)
        slots = wide if orders.slots is None else min(orders.slots, wide)
        if len(flies) > slots:
            raise self.broken(
                "S1",
                f"{host.name} is one of {len(flies)} in flight in {cluster.name}, {slots} allowed",
            )
        out = [n for n, each in enumerate(book.hosts) if each.state == "flies" or each.left_out]
        most = policy.max_out_of_service
        most = wide if most is None else max(amount(most, size), 1)
        if len(out) > most and not held:
            raise self.broken(
                "S1",
                f"{host.name} is one of {len(out)} out of service in {cluster.name}, {most} allowed",
            )
        per_domain = policy.order.max_per_domain
        if per_domain is not None and not held:
            domain = host.traits.domain
            there = sum(cluster.hosts[n].traits.domain == domain for n in out)
            if there > per_domain:
                raise self.broken(
                    "S1", f"{host.name} is one of {there} down in {domain}, {per_domain} allowed"
                )
        hosts = [each for some in self.books.values() for each in some.hosts]
        total = sum(each.state == "flies" and not each.restoring for each in hosts)
        limits = [each.max_parallel_total for each in self._policies()]
        if None not in limits:
            allowed = max(max(amount(each or 0, len(hosts)), 1) for each in limits)
            if total > allowed:
                raise self.broken(
                    "S1", f"{host.name} is one of {total} in flight in all, {allowed} allowed"
                )

    def _check_clusters(self, host: str) -> None:
        """After a start: how many clusters are at work."""
        busy = [
            name
            for name, book in self.books.items()
            if book.started and not self.world.clusters[name].told_end
        ]
        flying = [each for book in self.books.values() for each in book.hosts]
        limits = [each.max_parallel_clusters for each in self._policies(flying)]
        if None not in limits and len(busy) > max(each or 0 for each in limits):
            raise self.broken("S1", f"{host} starts, and clusters {', '.join(busy)} are at work")

    def _policies(self, hosts: Iterable[HostBook] = ()) -> list[RolloutPolicy]:
        """Those that somebody may still act by, since messages are late; or that held when these were started."""
        heard = [
            book.heard.policy_number if book.heard is not None else 0
            for name, book in self.books.items()
            if not self.world.clusters[name].state.ended
        ]
        return self.world.policies[min([*heard, *(each.policy_number for each in hosts)]) :]

    def _check_budgets(self, cluster: Cluster, host: str, wave: int) -> None:
        """Before a start: what has failed until now is tolerated."""
        book = self.books[cluster.name]
        orders = book.heard
        assert orders is not None
        policy, size = orders.policy, len(cluster.hosts)
        why = over(policy.failure_budget, size, book.hosts)
        if why is not None:
            raise self.broken("S3", f"{host} starts, but in {cluster.name} {why}")
        pilots = min(amount_up(policy.pilot_hosts, size), size)
        tried = [each for each in book.hosts if each.wave == 0 and each.state != "waits"]
        if wave == 0:
            why = over(policy.pilot_budget, pilots, tried)
            if why is not None:
                raise self.broken("S3", f"{host} starts, but of the pilots {why}")

    def _check_strict(self, host: str) -> None:
        """After a start: no more are at risk than may fail, and the one that stops."""
        hosts = [each for some in self.books.values() for each in some.hosts]
        lost_hosts = [
            each for each in hosts if each.state in ("flies", "parked") or each.became in FAILURE
        ]
        budgets = [each.total_failure_budget for each in self._policies()]
        known = [each for each in budgets if each is not None and each.strict]
        if len(known) < len(budgets):
            return
        allowed = max(amount(each.max_failures, len(hosts)) for each in known)
        lost = len(lost_hosts)
        if lost > allowed + 1:
            raise self.broken(
                "S3", f"{host} starts: {lost} hosts have failed or may fail, {allowed} may"
            )

    def _check_strict_cluster(self, cluster: Cluster, host: str, wave: int) -> None:
        """After the start of a new host: a strict budget of its own holds if all in flight fail, but one."""
        book = self.books[cluster.name]
        policy = book.heard.policy if book.heard is not None else self.world.scenario.policy
        size = len(cluster.hosts)
        pilots = min(amount_up(policy.pilot_hosts, size), size)
        whom = [(policy.failure_budget, size, book.hosts)]
        if wave == 0:
            first = [each for each in book.hosts if each.wave == 0 and each.state != "waits"]
            whom.append((policy.pilot_budget, pilots, first))
        flying = sum(each.state == "flies" for each in book.hosts)
        for budget, total, hosts in whom:
            if not budget.strict or not isinstance(budget.max_failures, int):
                continue
            became = [each.became for each in hosts if each.state in ("ended", "parked")]
            failed = became.count(HostState.FAILED) + flying
            if budget.max_unreachable is None:
                failed += became.count(HostState.UNREACHABLE)
            if failed > amount(budget.max_failures, total) + 1:
                raise self.broken(
                    "S3",
                    f"{host} starts: {failed} of {cluster.name} have failed or may fail, "
                    f"{budget.max_failures} may",
                )

    def _check_wave(self, cluster: Cluster, host: str, wave: int) -> None:
        book, plan = self.books[cluster.name], self.world.scenario.policy
        if wave < book.wave:
            raise self.broken("S4", f"{host} starts in wave {wave}, after one of wave {book.wave}")
        if wave > book.wave and book.wave >= 0:
            flies = [n for n, h in enumerate(book.hosts) if h.state == "flies" and not h.again]
            if flies:
                raise self.broken(
                    "S4",
                    f"{host} starts in wave {wave}, but {cluster.hosts[flies[0]].name} of wave "
                    f"{book.hosts[flies[0]].wave} is in flight",
                )
            if plan.soak is not None and book.wave not in book.soaked:
                raise self.broken("S4", f"{host} starts in wave {wave}: {book.wave} has not soaked")
        if wave:
            self._pilots_ended(cluster)
            sizes = [max(amount(each, len(cluster.hosts)), 1) for each in plan.waves]
            most = sizes[min(wave, len(sizes)) - 1]
            if book.started.get(wave, 0) >= most:
                raise self.broken("S4", f"{host} is one too many for wave {wave} of {most}")
        if plan.failure_budget.stop_on_failed_wave and not book.lowered:
            of = [each for each in book.hosts if each.state != "waits" and each.wave == book.wave]
            whole = book.wave > 0 and wave > book.wave
            tried = [each.became for each in of if each.became in TRIED]
            if whole and len(of) >= 2 and tried and all(each in FAILURE for each in tried):
                raise self.broken("S3", f"{host} starts, but all of wave {book.wave} failed")

    def _pilots_ended(self, cluster: Cluster) -> None:
        """The first time that the cluster has come past its pilots: enough of them have counted."""
        book, policy = self.books[cluster.name], self.world.scenario.policy
        if book.barrier:
            return
        book.barrier = True
        size = len(cluster.hosts)
        pilots = min(amount_up(policy.pilot_hosts, size), size)
        counted = [each for each in book.hosts if each.wave == 0 and each.became in TRIED]
        if len(counted) < pilots:
            raise self.broken(
                "S4", f"{cluster.name} goes on after {len(counted)} pilots, {pilots} must count"
            )

    def cluster_decided(self, cluster: Cluster, before: cluster_machine.ClusterState) -> None:
        """The cluster's commands are carried out: the codes and counts say what has happened."""
        now, book = cluster.state, self.books[cluster.name]
        if not cluster.listed or len(now.codes) != len(book.hosts):
            return
        if now.codes != before.codes:
            for at, (was, code) in enumerate(zip(before.codes, now.codes, strict=True)):
                if was != code:
                    self._check_code(cluster, at, chr(was), chr(code))
        self._check_counts(cluster)
        if now.in_flight == 0 and not now.ended and now.draining:
            self._check_carried(cluster)

    def _check_code(self, cluster: Cluster, at: int, was: str, code: str) -> None:
        """One that changes its code does so for a reason that was seen."""
        mine, name = self.books[cluster.name].hosts[at], cluster.hosts[at].name
        if was in "PUFXBSCG":
            raise self.broken("S10", f"{name} had ended as {was!r} and is {code!r} now")
        if code == "S" and mine.state == "waits":
            mine.state, mine.became, mine.skipped = "ended", HostState.SKIPPED, True
            book = self.books[cluster.name]
            if at not in book.skip and not book.skip_waves:
                raise self.broken("S6", f"{name} was not to be skipped")
            return
        wanted = {"flies": "r", "parked": "w", "waits": "."}.get(mine.state, "")
        if mine.state == "ended" and mine.became is not None:
            wanted = CODES[mine.became].decode()
        if code != wanted:
            raise self.broken("S7", f"{name} is {code!r}, but {mine.state} {mine.became or ''}")

    def _check_counts(self, cluster: Cluster) -> None:
        now, hosts = cluster.state, self.books[cluster.name].hosts
        became = [each.became for each in hosts if each.state in ("ended", "parked")]
        counts = {
            "in_flight": (now.in_flight, sum(each.state == "flies" for each in hosts)),
            "failed": (now.failed, became.count(HostState.FAILED)),
            "unreachable": (now.unreachable, became.count(HostState.UNREACHABLE)),
            "acted": (now.acted, sum(each in TRIED for each in became)),
            "parked": (len(now.parked), sum(each.state == "parked" for each in hosts)),
            "held": (len(now.held), sum(each.left_out for each in hosts)),
        }
        for what, (told, found) in counts.items():
            if told != found:
                raise self.broken("S10", f"{cluster.name} counts {told} {what}, it is {found}")

    def _check_carried(self, cluster: Cluster) -> None:
        from .world import carried_over

        plan = cluster.state.plan
        again = carried_over(cluster.state, plan)
        if again != cluster.state:
            raise self.broken("S10", f"{cluster.name} carries over {again}, it was {cluster.state}")

    # A host

    def step_runs(self, flight: Flight, command: RunStep) -> None:
        """A step is scheduled."""
        mine, name, step = self._of(flight), flight.host.name, command.step
        seen = self.world.seen
        if flight.over:
            raise self.broken("S6", f"{name} runs {step.name} after its end")
        if mine.state != "flies":
            raise self.broken("S5", f"{name} runs {step.name}, but it is {mine.state}")
        if mine.killed:
            raise self.broken("L3", f"{name} runs {step.name} after its update was torn apart")
        if not command.bounded:
            if told_to_stop(flight) and not mine.began_update:
                raise self.broken("L3", f"{name} was cancelled untouched, and runs {step.name}")
            if flight.heard.halt and not mine.began_update and not flight.cancelled:
                raise self.broken("S3", f"{name} was told to stand still, and runs {step.name}")
            self._check_checkpoint(mine, name, command)
            self._check_order(flight, mine, step)
        if command.number != mine.tries:
            raise self.broken(
                "S6", f"{name} runs {step.name} as try {command.number}, it is {mine.tries}"
            )
        if step.kind == "takes" and step.closed_by is not None:
            mine.open[step.name] = step.closed_by
        if step.kind == "closes":
            mine.open = {taken: by for taken, by in mine.open.items() if by != step.name}
        if step.kind == "update":
            mine.began_update = True
            seen["a host was touched"] += 1
        if step.kind == "closes" and step.name not in mine.done and command.bounded:
            seen["a closer ran on the way back"] += 1

    def interrupted(self, flight: Flight, name: str) -> None:
        """A step that runs is interrupted."""
        mine = self._of(flight)
        step = next(each for each in self.world.scenario.steps if each.name == name)
        if step.kind == "closes" or (step.shielded and not mine.began_update):
            raise self.broken("S6", f"{flight.host.name}: {name} is shielded, and interrupted")

    def halts(self, flight: Flight) -> None:
        """A host stands still."""
        if self._of(flight).began_update:
            raise self.broken("S8", f"{flight.host.name} stands still in the middle of its update")

    def _check_checkpoint(self, mine: HostBook, name: str, command: RunStep) -> None:
        step, got = command.step.name, command.checkpoint
        if mine.expects is None or mine.expects[0] != step:
            mine.given = None  # what the step before it was given is nothing of this one's
            if got is not None:
                raise self.broken("S6", f"{name}: {step} gets checkpoint {got!r} of another step")
            return
        wanted = mine.given = mine.expects[1]
        mine.expects = None
        self.world.seen["a retry with a checkpoint"] += wanted is not None
        if got != wanted:
            raise self.broken("S6", f"{name}: {step} gets checkpoint {got!r}, it saved {wanted!r}")

    def _check_order(self, flight: Flight, mine: HostBook, step: Step) -> None:
        if step.kind not in ("update", "reboot"):
            return
        for each in self.world.scenario.steps:
            if each is step or each.name == step.name:
                return
            taken = each.name in mine.done or each.name in mine.already
            if each.kind in ("gate", "takes", "update") and not taken:
                raise self.broken("S6", f"{flight.host.name} runs {step.name} before {each.name}")

    def before_effect(self, flight: Flight, step: Step, how: str) -> None:
        """An attempt ends: what is so before it has its effect."""
        mine, seen = self._of(flight), self.world.seen
        looks = step.name == "check_preconditions" and how == "ok" and not mine.done
        if looks and not flight.host.traits.in_service:
            mine.already.add("set_maintenance_mode")
            seen["a host was in maintenance before"] += 1
        halted = flight.cluster.state.paused is not None
        seen["a pause hit in mid-procedure"] += halted and not mine.began_update

    def effect(self, flight: Flight, step: Step, line: Effect) -> None:
        """Something was really done to a host."""
        mine, host = self._of(flight), flight.host
        if mine.state != "flies" or flight.over:
            raise self.broken("S6", f"{step.name} acts on {host.name}, which is {mine.state}")
        if step.kind == "reboot":
            mine.reboots += 1
        if step.name == "set_maintenance_mode" and step.name in mine.already:
            raise self.broken("S8", f"{host.name} was in maintenance before, and is put into it")
        if step.name != "clear_maintenance_mode":
            return
        if "set_maintenance_mode" in mine.already:
            raise self.broken(
                "S8", f"{host.name} was in maintenance before, and is taken out of it"
            )
        checks = {each.name for each in self.world.scenario.steps if each.kind == "health"}
        touched = mine.began_update and not (mine.accepted & checks)
        if touched and not host.healthy and checks:
            raise self.broken("S8", f"{host.name} returns to service, but is not healthy")
        if touched and mine.first_failure and not checks:
            raise self.broken("S8", f"{host.name} failed, and returns to service unchecked")

    def step_ended(self, flight: Flight, step: Step, event: HostEvent, how: str) -> None:
        """A host's workflow hears what came of a step."""
        mine = self._of(flight)
        bad = isinstance(event, StepBroke) or (isinstance(event, StepEnded) and not event.ok)
        bad = bad or how == "lies_about_boot"
        if not bad:
            mine.done.add(step.name)
            return
        mine.done.discard(step.name)
        if step.kind == "update" and flight.interrupted:
            mine.killed = True
            self.world.seen["an update was torn apart"] += 1
        bounded = flight.state.way != "forward"
        if not mine.first_failure and not bounded and not self._excused(flight, mine):
            mine.first_failure = step.name
            saved = event.checkpoint if isinstance(event, StepBroke) else None
            # What failed before it saved anything has lost nothing of what it was given.
            mine.failed_at, mine.saved = step.name, mine.given if saved is None else saved

    def _excused(self, flight: Flight, mine: HostBook) -> bool:
        return told_to_stop(flight) and not mine.began_update

    def host_over(self, flight: Flight) -> None:
        """A host's procedure has come to its end, or is parked."""
        mine, state, name = self._of(flight), flight.state, flight.host.name
        told = state.failure.step if state.failure is not None else ""
        if told and mine.first_failure and told != mine.first_failure:
            raise self.broken("S9", f"{name} failed at {mine.first_failure}, it tells of {told}")
        if mine.first_failure and state.failure is None:
            raise self.broken("S9", f"{name} failed at {mine.first_failure}, and tells of none")
        for step in state.completed:
            if step not in mine.done:
                raise self.broken("S9", f"{name} tells that {step} is done")
        if state.way != "parked" and not mine.killed:
            self._check_given_back(flight, mine)
        limit = mine.tries * 5
        if mine.reboots > limit:
            raise self.broken(
                "S6", f"{name} was rebooted {mine.reboots} times, {limit} are allowed"
            )

    def _check_given_back(self, flight: Flight, mine: HostBook) -> None:
        """What was taken away was given back, or it was tried; after an update, if the host is healthy."""
        waits_for_health = {
            step.name for step in self.world.scenario.steps if step.returns_to_service
        }
        for taken, closer in mine.open.items():
            if closer in mine.accepted or (mine.began_update and closer in waits_for_health):
                continue
            name = flight.host.name
            raise self.broken("S8", f"{name} has ended, {closer} has not run since {taken}")

    def host_ended(self, flight: Flight, state: HostState, *, left_out: bool, parked: bool) -> None:
        """A cluster hears what became of a host."""
        mine, host = self._of(flight), flight.host
        mine.state, mine.became, mine.restoring = ("parked" if parked else "ended"), state, False
        mine.left_out = left_out
        seen = self.world.seen
        seen[f"host {state.value}"] += 1
        seen["a host was parked"] += parked
        seen["a host was left out of service"] += left_out
        self._check_truth(flight.cluster, flight.index)
        if state is HostState.PATCHED:
            self._check_patched(mine, host.name, host.version, host.needs_reboot)
        if state is HostState.UNCHANGED and host.version != host.was:
            raise self.broken("S9", f"{host.name} is told to be unchanged, but was updated")
        if state is HostState.CANCELLED and (host.version != host.was or mine.began_update):
            raise self.broken("S9", f"{host.name} is told to be cancelled, its update had begun")
        if host.version == TORN and (state not in FAILURE or not left_out):
            raise self.broken("S8", f"{host.name} was torn apart, it is told as {state.value}")
        if "perform_update" in mine.done and state is HostState.CANCELLED:
            raise self.broken("S9", f"{host.name} was updated, and is told to be cancelled")

    def _check_patched(self, mine: HostBook, name: str, version: str, needs_reboot: bool) -> None:
        if version != NEW and "perform_update" not in mine.accepted and mine.tries == 1:
            raise self.broken("S9", f"{name} is told to be patched, its version is {version}")
        if needs_reboot and not mine.accepted & {"reboot", "perform_update"}:
            raise self.broken("S9", f"{name} is told to be patched, it needs a reboot")
        for step in self.world.scenario.steps:
            if step.kind in ("update", "health", "plain") and step.name not in mine.done:
                raise self.broken("S9", f"{name} is told to be patched, {step.name} was not done")

    def _check_truth(self, cluster: Cluster, at: int) -> None:
        """A host that is not in flight serves, or is named; or it was out of service before."""
        mine, host = self.books[cluster.name].hosts[at], cluster.hosts[at]
        if mine.state == "flies" or mine.left_out or host.serves:
            return
        wanted = set() if host.services else {"start_services"}
        wanted |= set() if host.alerts else {"restore_alerts"}
        if not host.in_service and host.traits.in_service:
            wanted.add("clear_maintenance_mode")
        wanted -= mine.accepted  # a person has said that it was done
        if wanted:
            named = ", ".join(sorted(wanted))
            raise self.broken("S8", f"{host.name} lacks {named}, and nobody says so")

    def left_as_it_is(self, cluster: Cluster, at: int, stands: host_machine.Procedure) -> None:
        """A person has left a parked host as it is."""
        mine = self.books[cluster.name].hosts[at]
        if mine.state != "parked":
            raise self.broken("S5", f"{cluster.hosts[at].name} is left, but it is {mine.state}")
        mine.state = "ended"

    def _of(self, flight: Flight) -> HostBook:
        return self.books[flight.cluster.name].hosts[flight.index]

    # Whenever anything has happened, and at the end

    def after(self, action: Action) -> None:
        """Something has happened: PAUSED means that nothing moves."""
        if machine.shown_phase(self.world.state) != "paused":
            return
        self.world.seen["everything stood still"] += 1
        for name, cluster in self.world.clusters.items():
            for flight in cluster.flights.values():
                mine = self.books[name].hosts[flight.index]
                if not mine.restoring and not host_machine.halted(flight.state):
                    raise self.broken(
                        "S3", f"it says that it is paused, but {flight.host.name} moves"
                    )

    def cluster_over(self, cluster: Cluster) -> None:
        """A cluster has ended, and tells its report."""
        state, book = cluster.state, self.books[cluster.name]
        if cluster.flights or cluster.parked:
            raise self.broken("S7", f"{cluster.name} has ended, with hosts in flight or parked")
        if not cluster.listed:
            return
        told = cluster_machine.counts(state)
        if sum(told.values()) != len(cluster.hosts):
            raise self.broken("S7", f"{cluster.name} tells of {told}, it has {len(cluster.hosts)}")
        for at, host in enumerate(cluster.hosts):
            mine, became = book.hosts[at], cluster_machine.host_state(state, at)
            if mine.state == "waits":
                mine.state, mine.became = "ended", HostState.NOT_STARTED
                self.world.seen["host NOT_STARTED"] += 1
            self.world.seen["host GONE"] += became is HostState.GONE
            if became is not mine.became:
                raise self.broken("S7", f"{host.name} is told as {became}, it is {mine.became}")
            if (at in state.held) != mine.left_out:
                raise self.broken("S8", f"{host.name} is named as left out or not, wrongly")
            self._check_truth(cluster, at)
            if mine.became is not None and mine.became not in TRIED and host.version != host.was:
                raise self.broken("S9", f"{host.name} is told as {mine.became}, it was updated")
        outcome = cluster_machine.outcome(state)
        self.world.seen[f"cluster {outcome.value}"] += 1
        good = all(each.became in SUCCESS for each in book.hosts)
        if outcome is Outcome.PATCHED and not good:
            raise self.broken("S9", f"{cluster.name} is told to be patched")
        if outcome in (Outcome.PATCHED, Outcome.PARTIAL) and any(
            each.became is HostState.NOT_STARTED for each in book.hosts
        ):
            raise self.broken("S7", f"{cluster.name} is {outcome.value}, but hosts had no turn")
        self._check_overshoot(cluster)

    def _check_overshoot(self, cluster: Cluster) -> None:
        book, policy = self.books[cluster.name], self.world.scenario.policy
        budget, size = policy.failure_budget, len(cluster.hosts)
        if (
            book.lowered
            or not budget.strict
            or budget.min_sample
            or budget.max_unreachable is not None
        ):
            return
        failed = sum(each.became in FAILURE for each in book.hosts)
        if failed > amount(budget.max_failures, size) + 1:
            raise self.broken(
                "S3", f"{failed} hosts of {cluster.name} failed, the budget is strict"
            )
        self.world.seen["a strict budget held"] += failed > 0

    def rollout_over(self) -> None:
        """Everything has ended."""
        world = self.world
        outcomes = set[Outcome]()
        for name, cluster in world.clusters.items():
            if not cluster.state.ended or not cluster.told_end:
                raise self.broken("L1", f"the rollout has ended, {name} has not")
            outcomes.add(cluster_machine.outcome(cluster.state))
            for at in range(len(cluster.hosts)):
                self._check_truth(cluster, at)
        outcome = world.state.outcome
        if outcome is None:
            outcome = Outcome.PATCHED if outcomes == {Outcome.PATCHED} else Outcome.PARTIAL
        world.seen[f"rollout {outcome.value}"] += 1
        hosts = [each for book in self.books.values() for each in book.hosts]
        if outcome is Outcome.PATCHED and not all(each.became in SUCCESS for each in hosts):
            raise self.broken("S9", "the rollout is told to be patched")
        if self.aborted and outcome not in (Outcome.ABORTED, Outcome.REJECTED, Outcome.EXPIRED):
            raise self.broken("S10", f"it was aborted, and is told as {outcome.value}")
        if self.refused and world.log:
            raise self.broken("S6", f"{world.log[0].host} was touched, but {self.refused}")
        planned = {host.name for cluster in world.clusters.values() for host in cluster.hosts}
        for line in world.log:
            if line.host not in planned:
                raise self.broken("S6", f"{line.host} was touched, and is in no plan")
            if line.attempt > 5:
                raise self.broken("S6", f"{line.host}: attempt {line.attempt} of {line.step}")


def told_to_stop(flight: Flight) -> bool:
    """Whether a host has heard that it is to stop."""
    return flight.cancelled or flight.heard.kill is not None


# Sums, worked out anew


def amount(value: int | str, total: int) -> int:
    """How many that is; a percentage rounds down."""
    return value if isinstance(value, int) else int(value[:-1]) * total // 100


def amount_up(value: int | str, total: int) -> int:
    """How many that is; a percentage rounds up."""
    return value if isinstance(value, int) else -(-int(value[:-1]) * total // 100)


def over(budget: FailureBudget, total: int, hosts: Sequence[HostBook]) -> str | None:
    """Why a budget is exceeded, or None."""
    became: list[Any] = [each.became for each in hosts if each.state in ("ended", "parked")]
    failed, far = became.count(HostState.FAILED), became.count(HostState.UNREACHABLE)
    return exceeded(budget, total, failed, far, sum(each in TRIED for each in became))


def exceeded(budget: FailureBudget, total: int, failed: int, far: int, tried: int) -> str | None:
    """Why a budget is exceeded by these numbers, or None."""
    enough = tried >= budget.min_sample
    most, far_most = budget.max_failures, budget.max_unreachable
    far_trips = enough or isinstance(far_most, int)
    if far_most is not None and far > amount(far_most, total) and far_trips:
        return f"{far} are unreachable, {far_most} may be"
    if far_most is None:
        failed += far
    if failed > amount(most, total) and (enough or isinstance(most, int)):
        return f"{failed} have failed, {most} may"
    return None
