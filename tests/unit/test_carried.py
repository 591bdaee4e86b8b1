"""What a cluster carries over from run to run: all of it arrives, and it is never too large."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.converter import DataConverter

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import Host, HostReport, HostResult, HostState, Notice, PatchRequest
from temporal_patching.models._carried import FrozenHosts, first_of, last_of, size
from temporal_patching.models._orders import ClusterOrders, ClusterRequest, ResolvedProcedure
from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import DEFAULT_STEPS, RolloutPolicy
from temporal_patching.policy._cluster import HostEnded, Ordered, SlotsGranted, decide
from temporal_patching.workflow import _cluster_run
from temporal_patching.workflow._cluster_report import KeptReports
from temporal_patching.workflow._cluster_run import MAX_CARRIED, ClusterRun
from tests import strategies

PAYLOAD = 2 * 1024 * 1024
"""The largest that a server takes."""

MANY = 50_000


def asked(**fields: object) -> ClusterRequest:
    """What a cluster's first run is given."""
    request = PatchRequest(clusters=["eu-1"], requester="carol@example.com", **fields)  # type: ignore[arg-type]
    procedure = ResolvedProcedure(
        steps=tuple(DEFAULT_STEPS), host_workflow="Host", cluster_workflow="Cluster", notifies=True
    )
    return ClusterRequest(rollout="patch-1", cluster="eu-1", request=request, procedure=procedure)


async def frozen(hosts: Iterable[Host], request: ClusterRequest | None = None) -> ClusterRun:
    """A cluster that has frozen this list."""
    run = ClusterRun(request or asked())

    async def listed(_: ClusterRequest) -> list[Host]:
        return list(hosts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cluster_run, "list_hosts", listed)
        await run.freeze(lambda some: some)
    return run


def taken_over(run: ClusterRun, orders: ClusterOrders | None = None) -> ClusterRun:
    """The run that goes on, from the payload."""
    sent = run.request.continued(run._carried(), orders, None)
    return ClusterRun(from_json(json.loads(json.dumps(to_json(sent))), ClusterRequest))


@given(st.lists(strategies.hosts, max_size=12))
def test_a_frozen_list_is_the_same_list(hosts: list[Host]) -> None:
    """Names and labels; each set of labels is written once."""
    some = FrozenHosts.of(hosts)
    again = from_json(json.loads(json.dumps(to_json(some))), FrozenHosts)
    assert again == some
    assert len(again) == len(hosts)
    found = [again[index] for index in range(len(again))]
    assert found == [attrs.evolve(host, down=False) for host in hosts]
    assert len(set(map(str, some.label_sets))) == len(some.label_sets)


@given(st.lists(st.text(max_size=9)), st.integers(0, 60))
def test_what_is_only_shown_is_cut(entries: list[str], most: int) -> None:
    """As many as there is room for, the first or the last."""
    kept = list(first_of(entries, most))
    assert kept == entries[: len(kept)]
    assert size(kept) <= most + 2, "with its brackets"
    kept = list(last_of(entries, most))
    assert kept == entries[len(entries) - len(kept) :]
    assert size(kept) <= most + 2, "with its brackets"


async def test_the_next_run_knows_the_same() -> None:
    """Progress, hosts, completed steps, report: nothing is another one."""
    hosts = [Host(name=f"h-{n}", labels={"rack": f"r{n % 3}"}) for n in range(9)]
    policy = RolloutPolicy(max_parallel=2, waves=[3])
    run = await frozen(hosts, asked(policy=policy))
    wider = attrs.evolve(policy, max_parallel=5, max_out_of_service=7)
    orders = ClusterOrders(sequence=4, slots=3, policy=wider, paused="host")
    run._policy = wider
    run._state, _ = decide(run._state, Ordered((SlotsGranted(3),)))
    run._state, _ = decide(run._state, HostEnded(host=0, state=HostState.FAILED, left_out=True))
    run._state = attrs.evolve(
        run._state, plan=run._plan(), stopped=None, ended=False, draining=True
    )
    result = HostResult(
        cluster="eu-1", host="h-0", state=HostState.FAILED, reason="no disk", left_out="held"
    )
    run._reports.keep_result(0, "h-0", result)
    run._done("h-0 FAILED")
    run._too_late["h-0"] = None
    run._obeyed, run._news.sequence = 3, 7
    again = taken_over(run, orders)
    assert again._state == run._state
    assert again._state.plan.max_parallel == 5
    assert again.orders == orders
    for shown in ("progress", "completed", "report", "_carried", "_update"):
        assert getattr(again, shown)() == getattr(run, shown)(), shown
    assert again.hosts(0) == run.hosts(0)
    assert taken_over(again)._carried() == run._carried()


async def test_fifty_thousand_hosts_fit_into_a_payload() -> None:
    """With long names, labels, and all that can happen to them, said in letters that take many bytes."""
    hosts = [Host(name=f"w{n:05}.eu.example", labels={"rack": f"r{n % 40}"}) for n in range(MANY)]
    began = time.process_time()
    run = await frozen(hosts)
    assert time.process_time() - began < 1.5, "a workflow task may take two seconds"
    run._state = attrs.evolve(
        run._state,
        codes=b"F" * MANY,
        held=frozenset(range(MANY)),
        draining=True,
    )
    long = "ü" * 500
    for index in range(300):
        state = HostState.FAILED if index % 2 else HostState.CANCELLED
        left_out = long if index % 3 else None
        run._reports.keep_result(
            index,
            hosts[index].name,
            HostResult(cluster="eu-1", host="x", state=state, reason=long, left_out=left_out),
        )
    for index in range(2_000):
        run._done(f"{hosts[index].name} {long}")
    run._notices._waiting.extend(
        Notice(kind="host_failed", text=long * 3, rollout="patch-1") for _ in range(100)
    )
    skips = tuple(host.name for host in hosts[:1_000])
    run._too_late = dict.fromkeys(skips)
    orders = ClusterOrders(sequence=1_000, skip=skips)
    sent = run.request.continued(run._carried(), orders, None)
    (payload,) = await DataConverter.default.encode([sent])
    assert 1_000_000 < payload.ByteSize() < MAX_CARRIED < PAYLOAD
    began = time.process_time()
    again = ClusterRun(from_json(json.loads(payload.data), ClusterRequest))
    assert time.process_time() - began < 1
    assert again._state == run._state
    began = time.process_time()
    report = again.report()
    assert time.process_time() - began < 1
    assert len(report.left_out_of_service) == MANY
    assert len(report.hosts) + report.hosts_omitted == MANY


@pytest.mark.parametrize("what", ["names", "labels", "request", "number"])
async def test_what_cannot_be_carried_is_refused(what: str) -> None:
    """Before anything is touched, with what to do."""
    hosts = [Host(name=f"h{n:05}") for n in range(MANY)]
    request = asked()
    if what == "names":
        hosts = [Host(name=f"h{n:030}") for n in range(MANY)]
    elif what == "labels":
        hosts = [Host(name=f"h{n}", labels={"serial": f"{n:030}"}) for n in range(MANY // 2)]
    elif what == "request":
        request = asked(params={"much": "x" * 1_100_000})
    else:
        hosts.append(Host(name="one-more"))
    with pytest.raises(InvalidRequest) as refused:
        await frozen(hosts, request)
    assert "split it" in str(refused.value)


def reports(*kinds: tuple[HostState, bool]) -> list[HostResult]:
    """Results of hosts, from the first."""
    return [
        HostResult(cluster="eu-1", host=f"h{n}", state=state, left_out="held" if held else None)
        for n, (state, held) in enumerate(kinds)
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([HostState.FAILED, HostState.CANCELLED, HostState.UNREACHABLE]),
            st.booleans(),
        ),
        min_size=190,
        max_size=260,
    ),
    st.randoms(use_true_random=False),
)
def test_a_report_lists_the_same_whatever_is_kept(
    kinds: list[tuple[HostState, bool]], rng: object
) -> None:
    """Only what it will list is kept, in whatever order hosts end: held ones, then failures, then the rest."""
    keeping = KeptReports("eu-1")
    results = list(enumerate(reports(*kinds)))
    order = results[:]
    rng.shuffle(order)  # type: ignore[attr-defined]
    for index, result in order:
        keeping.keep_result(index, result.host, result)
    kept = keeping.in_order()

    def rank(each: HostReport | HostResult) -> int:
        if each.left_out is not None:
            return 0
        return 2 if each.state is HostState.CANCELLED else 1

    wanted = sorted((result for _, result in results), key=rank)[:200]
    assert [each.host for each in sorted(kept, key=rank)] == [each.host for each in wanted]
