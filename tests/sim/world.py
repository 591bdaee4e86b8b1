"""A rollout, its clusters and their hosts, and all that is on its way between them, in one process.

The machines of ``policy`` decide; what stands here is what the workflows do around them, as thinly as there.
Nothing happens by itself: ``ready`` says what may happen next, ``apply`` lets one of those happen. Both
speak of actions, which are plain JSON: a run is a scenario and a list of actions, and can be replayed.

Messages are never lost, but late, out of order and doubled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TypeAlias

import attrs

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models._carried import CarriedHost, CarriedState
from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import FailureBudget, HostState, Outcome, RolloutPolicy
from temporal_patching.policy import _approval as ballots
from temporal_patching.policy import _cluster as cluster_machine
from temporal_patching.policy import _host as host_machine
from temporal_patching.policy import _rollout as machine
from temporal_patching.policy import _rollout_state as data
from temporal_patching.policy._gates import gated_waves
from temporal_patching.policy._repair import Repair
from temporal_patching.policy._rollout_policy import ClusterPlan, cluster_plan
from temporal_patching.policy._verbs import Asked, why_refused

from . import fleet
from .fleet import Effect, SimulatedHost
from .invariants import Watch
from .scenario import DIGEST, REQUESTER, Scenario

Action: TypeAlias = "list[Any]"
"""What happens, and to whom: plain JSON."""

_NOW = datetime(2026, 11, 28, tzinfo=timezone.utc)


@attrs.frozen(kw_only=True)
class Orders:
    """All that the rollout wants of a cluster, as it travels."""

    sequence: int
    slots: int | None
    risk: int | None
    stop: str | None
    finishes: bool
    paused: cluster_machine.PauseAfter | None
    kill: str | None
    opened: frozenset[int]
    window_open: bool
    policy: RolloutPolicy
    policy_number: int
    skip: frozenset[str]
    skip_waves: frozenset[int]
    repairs: tuple[Any, ...]


@attrs.frozen
class HostOrders:
    """All that a cluster wants of its hosts in flight."""

    sequence: int = 0
    halt: bool = False
    kill: str | None = None


@attrs.frozen
class HostUpdate:
    """What a host tells its cluster."""

    index: int
    number: int
    halted: bool
    answers: int


@attrs.define(kw_only=True, eq=False)
class Flight:
    """The workflow of one host in flight."""

    cluster: Cluster
    index: int
    host: SimulatedHost
    state: host_machine.Procedure
    how: Repair | None = None
    """For a host that was parked: what a person has asked for."""
    begun: bool = False
    running: host_machine.RunStep | None = None
    attempt: int = 1
    interrupted: bool = False
    cancel: str | None = None
    """On its way."""
    orders: list[HostOrders] = attrs.field(factory=list)
    """On their way."""
    heard: HostOrders = HostOrders()
    cancelled: bool = False
    halted: bool = False
    answered: int = 0
    told: int = 0
    over: bool = False


@attrs.define(kw_only=True, eq=False)
class Cluster:
    """The workflow of one cluster, over all its runs."""

    name: str
    hosts: tuple[SimulatedHost, ...]
    policy: RolloutPolicy
    plan: ClusterPlan
    """By the policy of the request."""
    state: cluster_machine.ClusterState
    listed: bool = False
    told_end: bool = False
    untold: bool = False
    orders: Orders | None = None
    """The newest that it has heard of."""
    coming: list[Orders] = attrs.field(factory=list)
    ordered: int = 0
    obeyed: int = 0
    cancel: str | None = None
    cancelled: bool = False
    sent: list[tuple[int, int, data.ClusterProgressed]] = attrs.field(factory=list)
    messages: int = 0
    flights: dict[int, Flight] = attrs.field(factory=dict)
    updates: list[HostUpdate] = attrs.field(factory=list)
    numbers: dict[int, int] = attrs.field(factory=dict)
    parked: dict[int, host_machine.Procedure] = attrs.field(factory=dict)
    cancelling: str | None = None
    host_orders: HostOrders = HostOrders()
    soaking: int | None = None
    runs: int = 1
    """One more each time that it has continued as new."""


class World:
    """A rollout with everything that belongs to it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.moment = 0
        self.decided = 0
        """Events that the machines have decided."""
        self.log: list[Effect] = []
        self.seen: Counter[str] = Counter()
        """What has happened at least once: what a batch of runs must all have seen."""
        self.policies = [scenario.policy]
        """Each that has held, the newest last."""
        self.clusters = {
            name: self._cluster(name, tuple(fleet.make(traits) for traits in hosts))
            for name, hosts in scenario.clusters.items()
        }
        self.where = {
            host.name: (cluster, index)
            for cluster in self.clusters.values()
            for index, host in enumerate(cluster.hosts)
        }
        self.state = data.rollout_state(
            scenario.policy, scenario.limits, tuple(self.clusters), gates=scenario.gates
        )
        self.ballots: dict[str, ballots.Ballot] = {}
        self.heard: dict[str, int] = dict.fromkeys(self.clusters, 0)
        self.watch = Watch(self)

    def _cluster(self, name: str, hosts: tuple[SimulatedHost, ...]) -> Cluster:
        policy, gates = self.scenario.policy, gated_waves(self.scenario.gates, name)
        domains = tuple(host.traits.domain for host in hosts)
        plan = cluster_plan(policy, len(hosts), gates=gates, domains=domains)
        gone = frozenset(at for at, host in enumerate(hosts) if host.traits.gone)
        state = cluster_machine.cluster_state(plan, gone)
        return Cluster(name=name, hosts=hosts, policy=policy, plan=plan, state=state)

    @property
    def ended(self) -> bool:
        """Whether the rollout has ended."""
        return self.state.phase == "ended"

    # The rollout

    def tell(self, event: data.RolloutEvent) -> None:
        """Something happens to the rollout."""
        before = self.state
        self.decided += 1
        self.state, commands = machine.decide(before, event)
        if isinstance(event, data.LimitsRequested):
            self.policies.append(event.policy)
        for command in commands:
            if isinstance(command, data.OpenGate):
                self._open(command.gate)
            elif isinstance(command, data.TellCluster):
                self._order(self.clusters[command.cluster])
            elif isinstance(command, data.CancelCluster):
                self.clusters[command.cluster].cancel = command.reason
        self.watch.rollout_decided(before, event)

    def _open(self, gate: str) -> None:
        if gate in self.ballots and self.ballots[gate].opened_at is not None:
            self.seen["a gate asked again"] += 1
            self.watch.gate_forgotten(gate)
            del self.ballots[gate]
        early = self.ballots.get(gate)
        ballot = ballots.Ballot(
            gate=gate, policy=self.scenario.gates[gate], requester=REQUESTER, digest=DIGEST
        )
        for vote in early.votes if early is not None else ():
            ballot = ballots.cast(ballot, vote)
        self.ballots[gate] = ballots.opened(ballot, _NOW)
        self._settle(gate)

    def _settle(self, gate: str) -> None:
        ballot = self.ballots[gate]
        if ballot.opened_at is None or ballot.outcome is None:
            return
        if ballot.outcome == "approved":
            self.tell(data.GatePassed(gate))
        elif ballot.outcome in ("rejected", "expired"):
            self.seen[f"a gate {ballot.outcome}"] += 1
            outcome = Outcome.REJECTED if ballot.outcome == "rejected" else Outcome.EXPIRED
            self.tell(data.GateShut(gate=gate, outcome=outcome, reason=f"{gate} {outcome}"))

    def _order(self, cluster: Cluster) -> None:
        state = self.state
        view = next(each for each in state.clusters if each.name == cluster.name)
        cluster.ordered += 1
        cluster.coming.append(
            Orders(
                sequence=cluster.ordered,
                slots=view.slots,
                risk=view.risk,
                stop=view.stop,
                finishes=view.finishes,
                paused=machine.pause_of(state, view),
                kill=state.reason if state.aborting == "kill" else None,
                opened=view.opened,
                window_open=machine.hosts_may_start(state),
                policy=state.policy,
                policy_number=len(self.policies) - 1,
                skip=view.skip,
                skip_waves=view.skip_waves,
                repairs=view.repairs,
            )
        )

    # A cluster

    def happens(self, cluster: Cluster, event: cluster_machine.ClusterEvent) -> None:
        """Something happens to a cluster."""
        before = cluster.state
        self.decided += 1
        cluster.state, commands = cluster_machine.decide(before, event)
        cluster.untold = True
        self.watch.cluster_decides(cluster, before, event, commands)
        for command in commands:
            if isinstance(command, cluster_machine.StartHost):
                procedure = host_machine.Procedure(
                    steps=self.scenario.steps,
                    reboot=self.scenario.policy.reboot,
                    parks=self.scenario.policy.on_host_failure == "park",
                )
                self._fly(cluster, command.host, procedure, None)
            elif isinstance(command, cluster_machine.RepairHost):
                procedure = _go_on(cluster.parked.pop(command.host), command)
                self._fly(cluster, command.host, procedure, command.how)
            elif isinstance(command, cluster_machine.CancelHosts):
                cluster.cancelling = command.reason
                for flight in cluster.flights.values():
                    flight.cancel = None if flight.cancelled else command.reason
            elif isinstance(command, cluster_machine.HaltHosts):
                self._order_hosts(cluster, halt=command.halt)
            elif isinstance(command, cluster_machine.BeginSoak):
                cluster.soaking = command.wave
        for host in sorted(cluster.parked.keys() - cluster.state.parked.keys()):
            self.seen["repair skip"] += 1
            self.watch.left_as_it_is(cluster, host, cluster.parked.pop(host))
        self.watch.cluster_decided(cluster, before)

    def _fly(
        self,
        cluster: Cluster,
        index: int,
        procedure: host_machine.Procedure,
        how: Repair | None,
    ) -> None:
        host = cluster.hosts[index]
        cluster.flights[index] = Flight(
            cluster=cluster, index=index, host=host, state=procedure, how=how
        )
        if how is not None:
            self.seen[f"repair {how}"] += 1

    def _order_hosts(
        self, cluster: Cluster, *, halt: bool | None = None, kill: str | None = None
    ) -> None:
        last = cluster.host_orders
        cluster.host_orders = HostOrders(
            last.sequence + 1, False if halt is None else halt, kill or last.kill
        )
        for flight in cluster.flights.values():
            if flight.begun:
                flight.orders.append(cluster.host_orders)

    def _obey(self, cluster: Cluster) -> None:
        """Takes up the newest orders that it has heard of, as ``ClusterRun.obey`` does."""
        orders = cluster.orders
        if orders is None:
            return
        if orders.kill is not None and cluster.host_orders.kill is None:
            self._order_hosts(cluster, kill=orders.kill)
        cluster.obeyed = orders.sequence
        self.watch.heard(cluster, orders)
        if orders.stop is not None:
            cancel = cluster.policy.in_flight == "cancel" and not orders.finishes
            self.happens(cluster, cluster_machine.StopRequested(reason=orders.stop, cancel=cancel))
            return
        ordered: list[cluster_machine.ClusterEvent] = [
            cluster_machine.PauseChanged(orders.paused),
            cluster_machine.WindowChanged(orders.window_open),
        ]
        if orders.policy != cluster.policy:
            cluster.policy = orders.policy
            ordered.append(cluster_machine.LimitsChanged(self._plan(cluster)))
        names = {host.name: index for index, host in enumerate(cluster.hosts)}
        if orders.skip or orders.skip_waves:
            hosts = frozenset(names[name] for name in orders.skip if name in names)
            ordered.append(cluster_machine.Skipped(hosts=hosts, waves=orders.skip_waves))
        ordered.append(cluster_machine.WavesOpened(orders.opened))
        ordered += [
            cluster_machine.RepairAsked(
                number=each.number, host=names[each.host], how=each.how, step=each.step
            )
            for each in orders.repairs
        ]
        ordered.append(cluster_machine.SlotsGranted(orders.slots, orders.risk))
        self.happens(cluster, cluster_machine.Ordered(tuple(ordered)))

    def _plan(self, cluster: Cluster) -> ClusterPlan:
        limits = cluster_plan(cluster.policy, len(cluster.hosts))
        return cluster_machine.limited(cluster.plan, limits)

    # A host

    def reaches(self, flight: Flight, event: host_machine.HostEvent) -> None:
        """Something happens to a host's workflow."""
        self.decided += 1
        flight.state, commands = host_machine.decide(flight.state, event)
        for command in commands:
            if isinstance(command, host_machine.RunStep):
                flight.running, flight.attempt, flight.interrupted = command, 1, False
                self.watch.step_runs(flight, command)
            elif isinstance(command, host_machine.InterruptStep):
                flight.interrupted = True
                self.watch.interrupted(flight, command.step)
        if host_machine.over(flight.state):
            flight.over, flight.running = True, None
            self.watch.host_over(flight)
            return
        if flight.state.running is None:
            flight.running = None
        halted = host_machine.halted(flight.state)
        if halted == flight.halted and (not halted or flight.answered == flight.heard.sequence):
            return
        if halted:
            self.watch.halts(flight)
        flight.halted, flight.answered = halted, flight.heard.sequence
        flight.told += 1
        flight.cluster.updates.append(
            HostUpdate(flight.index, flight.told, halted, flight.heard.sequence)
        )

    def _result(self, flight: Flight) -> cluster_machine.HostEnded:
        state, parked = flight.state, flight.state.way == "parked"
        return cluster_machine.HostEnded(
            host=flight.index,
            state=host_machine.verdict(state),
            left_out=host_machine.why_left_out(state) is not None,
            parked=parked,
            why=flight.host.name,
        )

    # What may happen next

    def ready(self) -> list[Action]:
        """What may happen next, people and calendars aside. Of a step's attempt not how it ends."""
        found: list[Action] = []
        for name, cluster in self.clusters.items():
            found += [["news", name, number] for number, _, _ in cluster.sent]
            if cluster.told_end:
                continue
            if cluster.cancel is not None:
                found.append(["cancel", name])
            if not cluster.listed:
                if not cluster.state.ended:
                    found.append(["list", name])
                    continue
            else:
                found += [["orders", name, orders.sequence] for orders in cluster.coming]
            if cluster.state.ended:
                found.append(["end", name])
                continue
            if cluster.untold:
                found.append(["tell", name])
            if cluster.soaking is not None and self._soaks(cluster):
                found.append(["soak", name])
            if cluster_machine.drained(cluster.state):
                found.append(["continue", name])
            found += [
                ["host_news", cluster.hosts[update.index].name, update.number]
                for update in cluster.updates
            ]
            for flight in cluster.flights.values():
                found += self._of_flight(flight)
        for gate, ballot in self.ballots.items():
            if ballot.opened_at is not None and ballot.outcome is None:
                found.append(["vote", gate])
        return found

    def _of_flight(self, flight: Flight) -> list[Action]:
        name = flight.host.name
        if not flight.begun:
            return [["begin", name]]
        if flight.over:
            return [["result", name]]
        found: list[Action] = [["host_orders", name, orders.sequence] for orders in flight.orders]
        if flight.cancel is not None:
            found.append(["cancel_host", name])
        if flight.running is not None:
            found.append(["step", name])
        return found

    def _soaks(self, cluster: Cluster) -> bool:
        return (
            cluster.state.paused is None
            and not cluster.state.draining
            and cluster.state.stopped is None
        )

    # What happens

    def apply(self, action: Action) -> bool:
        """Lets it happen, if it can happen now. Answers whether it could."""
        self.moment += 1
        happened = _ACTIONS[action[0]](self, *action[1:])
        self.watch.after(action)
        return happened

    def _list(self, name: str) -> bool:
        cluster = self.clusters.get(name)
        if cluster is None or cluster.listed or cluster.state.ended:
            return False
        cluster.listed = True
        self.watch.planned(cluster)
        hosts = tuple(host.name for host in cluster.hosts)
        last = all(each.listed for each in self.clusters.values())
        self.tell(
            data.ClusterPlanned(
                cluster=name,
                hosts=hosts,
                max_parallel=cluster.plan.max_parallel,
                digest=DIGEST if last else "",
            )
        )
        return True

    def _cancel(self, name: str) -> bool:
        cluster = self.clusters.get(name)
        if cluster is None or cluster.cancel is None or cluster.state.ended:
            return False
        reason, cluster.cancel, cluster.cancelled = cluster.cancel, None, True
        if not cluster.listed:  # it has no list, and will not have one
            cluster.state = cluster_machine.cluster_state(cluster_plan(cluster.policy, 0))
        self.seen[f"a cluster cancelled while {self._phase(cluster)}"] += 1
        self.happens(cluster, cluster_machine.StopRequested(reason=reason, aborted=True))
        return True

    def _phase(self, cluster: Cluster) -> str:
        state = cluster.state
        if not cluster.listed:
            return "listing"
        if state.stopped is not None:
            return "stopping"
        if state.slots == 0 and not state.in_flight:
            return "waiting"
        if state.at_barrier is not None:
            return "soaking" if state.at_barrier == "soak" else "at a gate"
        if state.parked and not state.in_flight:
            return "parked"
        return "in its pilots" if state.group.wave == 0 else "in a wave"

    def _orders(self, name: str, sequence: int, keep: bool = False) -> bool:
        cluster = self.clusters.get(name)
        if cluster is None or cluster.told_end:
            return False
        orders = next((each for each in cluster.coming if each.sequence == sequence), None)
        if orders is None or not cluster.listed:
            return False
        if keep:
            self.seen["a message came twice"] += 1
        else:
            cluster.coming.remove(orders)
        if cluster.orders is not None and orders.sequence <= cluster.orders.sequence:
            self.seen["a message was overtaken"] += orders.sequence < cluster.orders.sequence
            return True  # concurrent signals overtake each other
        cluster.orders = orders
        if not cluster.state.ended:
            self._obey(cluster)
        return True

    def _tell(self, name: str) -> bool:
        cluster = self.clusters.get(name)
        if cluster is None or not cluster.listed or not cluster.untold or cluster.state.ended:
            return False
        state, cluster.untold = cluster.state, False
        cluster.messages += 1
        told = data.ClusterProgressed(
            cluster=name,
            acted=state.acted,
            failed=state.failed,
            unreachable=state.unreachable,
            stopped=state.stopped,
            quiet=cluster_machine.quiet(state),
            at_gate=state.group.wave + 1 if state.at_barrier == "gate" else None,
            needs=cluster_machine.needs(state),
            in_flight=state.in_flight,
            parked={
                cluster.hosts[host].name: _failed_step(cluster.parked[host])
                for host in cluster_machine.unanswered(state)
            },
            repaired=state.repaired,
            repairs_waiting=len(state.repairs),
        )
        cluster.sent.append((cluster.messages, cluster.obeyed, told))
        return True

    def _news(self, name: str, number: int, keep: bool = False) -> bool:
        cluster = self.clusters.get(name)
        sent = next((each for each in cluster.sent if each[0] == number), None) if cluster else None
        if cluster is None or sent is None:
            return False
        if keep:
            self.seen["a message came twice"] += 1
        else:
            cluster.sent.remove(sent)
        if number <= self.heard[name]:
            self.seen["a message was overtaken"] += number < self.heard[name]
            return True
        self.heard[name] = number
        _, obeyed, told = sent
        knows = obeyed >= cluster.ordered
        self.tell(
            attrs.evolve(
                told, quiet=told.quiet and knows, in_flight=told.in_flight if knows else None
            )
        )
        return True

    def _end(self, name: str) -> bool:
        cluster = self.clusters.get(name)
        if cluster is None or cluster.told_end or not cluster.state.ended:
            return False
        cluster.told_end, state = True, cluster.state
        self.watch.cluster_over(cluster)
        self.tell(
            data.ClusterEnded(
                cluster=name,
                outcome=cluster_machine.outcome(state),
                reason=state.stopped or "",
                acted=state.acted,
                failed=state.failed,
                unreachable=state.unreachable,
            )
        )
        return True

    def _soak(self, name: str) -> bool:
        cluster = self.clusters.get(name)
        if cluster is None or cluster.soaking is None or not self._soaks(cluster):
            return False
        self.watch.soaked(cluster, cluster.soaking)
        self.seen["a soak ended"] += 1
        cluster.soaking = None
        self.happens(cluster, cluster_machine.SoakEnded())
        return True

    def _drain(self, name: str) -> bool:
        cluster = self.clusters.get(name)
        if cluster is None or not cluster.listed or cluster.state.ended or cluster.state.draining:
            return False
        if cluster.state.stopped is None:
            self.watch.drains(cluster, True)
        self.happens(cluster, cluster_machine.DrainRequested())
        return True

    def _continue(self, name: str) -> bool:
        """Another run takes over: whatever it knows has been JSON in between."""
        cluster = self.clusters.get(name)
        if cluster is None or not cluster_machine.drained(cluster.state):
            return False
        cluster.state = carried_over(cluster.state, self._plan(cluster))
        cluster.parked = {
            index: attrs.evolve(_parked_again(index, stands), steps=self.scenario.steps)
            for index, stands in cluster.parked.items()
        }
        cluster.runs += 1
        cluster.host_orders = HostOrders()
        self.seen["a cluster continued as new"] += 1
        self.seen["a parked host was carried over"] += bool(cluster.parked)
        self._obey(cluster)
        if cluster.state.ended:
            return True
        self.watch.drains(cluster, False)
        self.happens(cluster, cluster_machine.DrainEnded())
        if cluster.state.at_barrier == "soak":
            cluster.soaking = cluster.state.group.wave
        return True

    def _flight(self, host: str) -> Flight | None:
        cluster, index = self.where.get(host, (None, 0))
        return cluster.flights.get(index) if cluster is not None else None

    def _begin(self, host: str) -> bool:
        flight = self._flight(host)
        if flight is None or flight.begun:
            return False
        flight.begun, cluster = True, flight.cluster
        if flight.host.traits.busy and flight.how is None:
            return self._busy(flight)
        if cluster.cancelling is not None:
            flight.cancel = cluster.cancelling
        if cluster.host_orders.halt or cluster.host_orders.kill is not None:
            flight.orders.append(cluster.host_orders)
        self.reaches(flight, host_machine.Started())
        return True

    def _busy(self, flight: Flight) -> bool:
        """Another rollout works on it: nothing of it is touched."""
        cluster = flight.cluster
        state = HostState.CANCELLED
        if cluster.cancelling is None:
            skips = self.scenario.policy.on_busy_host == "skip"
            state = HostState.SKIPPED if skips else HostState.FAILED
        self.seen["a host was busy"] += 1
        del cluster.flights[flight.index]
        self.watch.host_ended(flight, state, left_out=False, parked=False)
        ended = cluster_machine.HostEnded(host=flight.index, state=state, why=flight.host.name)
        self.happens(cluster, ended)
        return True

    def _host_orders(self, host: str, sequence: int, keep: bool = False) -> bool:
        flight = self._flight(host)
        orders = (
            next((each for each in flight.orders if each.sequence == sequence), None)
            if flight is not None
            else None
        )
        if flight is None or orders is None or flight.over:
            return False
        if not keep:
            flight.orders.remove(orders)
        if orders.sequence <= flight.heard.sequence:
            return True
        flight.heard = orders
        if orders.kill is not None:
            self.reaches(flight, host_machine.KillRequested(orders.kill))
        else:
            self.reaches(flight, host_machine.HaltRequested(orders.halt))
        return True

    def _cancel_host(self, host: str) -> bool:
        flight = self._flight(host)
        if flight is None or flight.cancel is None or flight.over or not flight.begun:
            return False
        reason, flight.cancel, flight.cancelled = flight.cancel, None, True
        self.seen["a host cancelled in mid-procedure"] += flight.running is not None
        self.reaches(flight, host_machine.CancelRequested(reason))
        return True

    def _host_news(self, host: str, number: int, keep: bool = False) -> bool:
        cluster, index = self.where.get(host, (None, 0))
        if cluster is None:
            return False
        update = next((u for u in cluster.updates if (u.index, u.number) == (index, number)), None)
        if update is None or cluster.state.ended:
            return False
        if not keep:
            cluster.updates.remove(update)
        if index not in cluster.flights or number <= cluster.numbers.get(index, 0):
            return True
        cluster.numbers[index] = number
        if not update.halted or update.answers >= cluster.host_orders.sequence:
            self.happens(cluster, cluster_machine.HostHalted(host=index, halted=update.halted))
        return True

    def _step(self, host: str, how: str = "ok") -> bool:
        flight = self._flight(host)
        if flight is None or flight.running is None:
            return False
        command, last = flight.running, flight.attempt >= fleet.MAX_ATTEMPTS
        step = command.step
        possible = fleet.ends(step, interrupted=flight.interrupted, last=last)
        if how != "ok" and how not in possible:
            return False
        self.seen[f"fault {how}"] += how != "ok"
        if how == "ok" and step.kind == "gate" and not flight.host.traits.needed:
            self.seen["a host needed nothing"] += 1
        number = flight.attempt
        self.watch.before_effect(flight, step, how)
        if fleet.has_effect(step, how, flight.host):
            line = Effect(self.moment, flight.host.name, step.name, command.number, number)
            self.log.append(line)
            self.watch.effect(flight, step, line)
        event = fleet.attempt(flight.host, step, how, number)
        if event is None:
            flight.attempt += 1
            return True
        flight.running = None
        self.watch.step_ended(flight, step, event, how)
        self.reaches(flight, event)
        return True

    def _result_of(self, host: str, twice: bool = False) -> bool:
        flight = self._flight(host)
        if flight is None or not flight.over:
            return False
        cluster = flight.cluster
        del cluster.flights[flight.index]
        cluster.numbers.pop(flight.index, None)
        ended = self._result(flight)
        if ended.parked:
            cluster.parked[flight.index] = _parked_again(flight.index, flight.state)
            cluster.parked[flight.index] = attrs.evolve(
                cluster.parked[flight.index], steps=self.scenario.steps
            )
        self.watch.host_ended(flight, ended.state, left_out=ended.left_out, parked=ended.parked)
        self.happens(cluster, ended)
        if twice and flight.index not in cluster.flights:  # not if it is in flight again
            self.seen["a message came twice"] += 1
            self.happens(cluster, ended)
        return True

    # People and calendars

    def _vote(self, gate: str, by: str, approve: bool = True, digest: str = "") -> bool:
        if gate not in self.scenario.gates:
            return False
        ballot = self.ballots.get(gate) or ballots.Ballot(
            gate=gate, policy=self.scenario.gates[gate], requester=REQUESTER
        )
        if ballot.outcome is not None and ballot.opened_at is not None:
            return False
        vote = ballots.CastVote(by=by, approve=approve, digest=digest)
        refused = ballots.why_refused(ballot, vote)
        self.watch.voted(gate, by, approve, digest)
        self.seen["a vote was refused" if refused else "a vote counted"] += 1
        self.ballots[gate] = ballots.cast(ballot, vote)
        self._settle(gate)
        return True

    def _expire(self, gate: str) -> bool:
        ballot = self.ballots.get(gate)
        if ballot is None or ballot.opened_at is None or ballot.outcome is not None:
            return False
        self.ballots[gate] = ballots.expired(ballot)
        self._settle(gate)
        return True

    def _window(self, is_open: bool, stale: bool = False) -> bool:
        self.tell(data.WindowChanged(is_open, stale=stale))
        self.seen["a window closed" if not is_open else "a window opened"] += 1
        return True

    def _windows_closed(self, for_good: bool) -> bool:
        self.tell(data.WindowsClosed("the windows have closed", for_good=for_good))
        return True

    def _full(self) -> bool:
        self.tell(data.HistoryFull("its history is full"))
        return True

    def _verb(self, said: Mapping[str, Any]) -> bool:
        asked = self.asked(said)
        if asked is None:
            return False
        names = tuple(step.name for step in self.scenario.steps)
        if why_refused(self.state, asked, steps=names) is not None:
            self.seen["a verb was refused"] += 1
            return False
        self.watch.asked(asked)
        self.tell(asked)
        return True

    def asked(self, said: Mapping[str, Any]) -> Asked | None:
        """What somebody asks for, of what is written of it. None: it makes no sense here."""
        what, cluster = said["verb"], said.get("cluster")
        if cluster is not None and cluster not in self.clusters:
            return None
        if what == "pause":
            return data.PauseRequested(after=said["after"], cluster=cluster)
        if what == "resume":
            return data.ResumeRequested(cluster=cluster)
        if what == "abort":
            return data.AbortRequested(reason="aborted", now=said["now"])
        if what == "set_limits":
            budgets = ("failure_budget", "total_failure_budget")
            changes: dict[str, Any] = {
                name: FailureBudget(**to) if name in budgets else to
                for name, to in said["to"].items()
            }
            try:
                return data.LimitsRequested(policy=attrs.evolve(self.state.policy, **changes))
            except InvalidRequest:
                return None
        if what == "skip" and "wave" in said:
            return data.SkipRequested(cluster=cluster, wave=said["wave"])
        host = said["host"]
        if host not in self.where:
            return None
        of = self.where[host][0].name
        parked = any(host in view.parked for view in self.state.clusters)
        if what == "skip" and not parked:
            return data.SkipRequested(cluster=of, hosts=frozenset({host}))
        return data.RepairRequested(cluster=of, host=host, how=what, step=said.get("step"))


_ACTIONS: Mapping[str, Callable[..., bool]] = {
    "list": World._list,
    "cancel": World._cancel,
    "orders": World._orders,
    "tell": World._tell,
    "news": World._news,
    "end": World._end,
    "soak": World._soak,
    "drain": World._drain,
    "continue": World._continue,
    "begin": World._begin,
    "host_orders": World._host_orders,
    "cancel_host": World._cancel_host,
    "host_news": World._host_news,
    "step": World._step,
    "result": World._result_of,
    "vote": World._vote,
    "expire": World._expire,
    "window": World._window,
    "windows_closed": World._windows_closed,
    "full": World._full,
    "verb": World._verb,
}


def carried_over(
    state: cluster_machine.ClusterState, plan: ClusterPlan
) -> cluster_machine.ClusterState:
    """The state in the next run."""
    plain = json.loads(json.dumps(to_json(CarriedState.of(state))))
    return from_json(plain, CarriedState).restored(plan)


def _parked_again(index: int, stands: host_machine.Procedure) -> host_machine.Procedure:
    """Where a parked host stands, after it was JSON."""
    sent = CarriedHost(index=index, stands=attrs.evolve(stands, steps=()))
    again = from_json(json.loads(json.dumps(to_json(sent))), CarriedHost)
    if again != sent:
        raise AssertionError(f"what is parked is another one after its JSON: {sent} → {again}")
    return again.stands


def _go_on(
    stands: host_machine.Procedure, command: cluster_machine.RepairHost
) -> host_machine.Procedure:
    """From where a parked host goes on, as ``ParkedHosts.go_on`` has it."""
    if command.how == "accept":
        return host_machine.accepted(stands)
    if command.how == "restore":
        return host_machine.restored(stands)
    try:
        return host_machine.retried(stands, command.step)
    except InvalidRequest:  # it failed again at an earlier step than the person saw
        return host_machine.retried(stands)


def _failed_step(stands: host_machine.Procedure) -> str:
    return stands.failure.step if stands.failure is not None else ""
