"""What crosses the wire: the same on both sides under any data converter, and rubbish is named."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.common import RetryPolicy
from temporalio.converter import DataConverter

from temporal_patching import models
from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import (
    Abort,
    Accept,
    ApprovalReport,
    ClusterReport,
    GateReport,
    Host,
    HostReport,
    HostState,
    HostTask,
    PatchRequest,
    Pause,
    Restore,
    Resume,
    Retry,
    RolloutReport,
    SetLimits,
    Skip,
    StepResult,
    Vote,
    WireType,
)
from temporal_patching.models import _orders as orders
from temporal_patching.models._duration import format_duration, parse_duration
from temporal_patching.models._orders import HostRequest
from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    FailureBudget,
    RolloutPolicy,
    Step,
)
from tests.conftest import CONVERTERS
from tests.strategies import instances, json_values, percentages, retry_policies

WIRE_TYPES = sorted(
    {
        each
        for module in (models, orders)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, WireType) and each is not WireType
    },
    key=lambda each: each.__name__,
)
ASKED = {
    PatchRequest,
    Vote,
    Host,
    Abort,
    Pause,
    Resume,
    SetLimits,
    Skip,
    Retry,
    Accept,
    Restore,
}
"""What people write: a misspelt field is an error there. Everything else is read back leniently."""

REQUEST: dict[str, Any] = {"clusters": ["eu-1"], "requester": "carol@example.com"}


few = settings(
    # For each of many types; the nightly profile has more.
    max_examples=max(5, settings().max_examples // 20),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def problems(value: Any, wanted: type = PatchRequest) -> tuple[str, ...]:
    """What is wrong with this JSON value."""
    with pytest.raises(InvalidRequest) as refused:
        from_json(value, wanted)
    return refused.value.problems


async def there_and_back(converter: DataConverter, value: Any) -> Any:
    """What arrives on the other side."""
    return (await converter.decode(await converter.encode([value]), [type(value)]))[0]


# Round trips


def test_every_wire_type_is_tested() -> None:
    """The list of wire types is not empty by accident."""
    assert {PatchRequest, HostTask, RolloutReport, HostRequest, Vote} <= set(WIRE_TYPES)
    assert len(WIRE_TYPES) >= 25


@pytest.mark.parametrize("converter", sorted(CONVERTERS))
@pytest.mark.parametrize("wanted", WIRE_TYPES, ids=lambda each: each.__name__)
@few
@given(data=st.data())
async def test_it_arrives_as_it_was_sent(
    wanted: type[WireType], converter: str, data: st.DataObject
) -> None:
    """Under the default, the pydantic and an encrypting converter, with no plugin."""
    value = data.draw(instances(wanted))
    assert await there_and_back(CONVERTERS[converter](), value) == value


@pytest.mark.parametrize("wanted", WIRE_TYPES, ids=lambda each: each.__name__)
@few
@given(data=st.data())
def test_it_is_plain_json(wanted: type[WireType], data: st.DataObject) -> None:
    """In the web UI it is JSON that means the same when it is written by hand."""
    value = data.draw(instances(wanted))
    written = json.dumps(to_json(value), allow_nan=False)
    assert from_json(json.loads(written), wanted) == value


async def test_encrypted_payloads_hold_no_plain_text() -> None:
    """Behind a codec neither field names nor values are readable."""
    encrypted = CONVERTERS["encrypted"]()
    (payload,) = await encrypted.encode([PatchRequest(**REQUEST, update_command="canary-4711")])
    assert b"canary-4711" not in payload.SerializeToString()
    assert b"requester" not in payload.SerializeToString()


def test_forms() -> None:
    """Durations and percentages have one readable form."""
    request = PatchRequest(
        clusters=["eu-1"],
        requester="carol@example.com",
        policy=RolloutPolicy(
            max_parallel="10%",
            waves=[1, "100%"],
            failure_budget=FailureBudget(max_failures="5%"),
            busy_host_timeout=timedelta(minutes=90),
        ),
        approvals={
            "start": ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4))
        },
    )
    written = to_json(request)
    assert written["policy"]["max_parallel"] == "10%"
    assert written["policy"]["waves"] == [1, "100%"]
    assert written["policy"]["failure_budget"]["max_failures"] == "5%"
    assert written["policy"]["busy_host_timeout"] == "1h30m"
    assert written["approvals"]["start"]["timeout"] == "4h"
    assert written["approvals"]["start"]["quorum"] == 1, "what has its default is written, too"


def test_what_travels_once_a_host_is_short() -> None:
    """What has its default is left out there: a cluster has thousands of them in one history."""
    task = HostTask(rollout="r", cluster="c", host="h", step="perform_update")
    assert to_json(task) == {
        "rollout": "r",
        "cluster": "c",
        "host": "h",
        "step": "perform_update",
    }
    assert to_json(StepResult(changed=True)) == {"changed": True}
    host = HostRequest(task=task, steps=tuple(DEFAULT_STEPS))
    assert to_json(host)["steps"][0] == {"name": "check_preconditions"}


DEFAULTS = Path(__file__).with_name("wire_defaults.json")


def all_defaults() -> dict[str, Any]:
    """Every default that a message may leave out."""
    timeout = timedelta(hours=1)
    return {
        "Step": {name: to_json(Step(name)) for name in (*DEFAULT_STEPS.names, "of_ones_own")},
        "RolloutPolicy": to_json(RolloutPolicy()),
        "ApprovalPolicy": to_json(ApprovalPolicy(approvers=["a"], timeout=timeout)),
        "PatchRequest": to_json(PatchRequest(clusters=["c"], requester="r")),
    }


def test_no_default_changes() -> None:
    """A rollout that runs while the library is upgraded goes on as it began."""
    recorded = json.loads(DEFAULTS.read_text(encoding="utf-8"))
    assert all_defaults() == recorded, (
        "A default of the wire changes running rollouts: give the new behaviour a new field. For a new "
        "field: python -m tests.unit.test_wire"
    )


@given(retry_policies())
def test_a_retry_policy_arrives(policy: RetryPolicy) -> None:
    """The SDK's own type, under the SDK's own names."""
    step = Step("drain_disks", retry_policy=policy)
    task = HostTask(rollout="r", cluster="c", host="h")
    request = HostRequest(task=task, steps=(step,))
    assert from_json(json.loads(json.dumps(to_json(request))), HostRequest) == request
    assert set(to_json(policy)) <= set(RetryPolicy.__dataclass_fields__)


# Durations and percentages


@given(st.timedeltas(min_value=timedelta(0)))
def test_a_duration_is_exact(duration: timedelta) -> None:
    """To the microsecond, over days, and never in another form."""
    written = format_duration(duration)
    assert parse_duration(written) == duration
    assert format_duration(parse_duration(written)) == written


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        ("0s", timedelta(0)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("0.5s", timedelta(milliseconds=500)),
        ("0.000001s", timedelta(microseconds=1)),
        ("1d2h3m4.5s", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
        ("36h", timedelta(hours=36)),
    ],
)
def test_durations_by_example(written: str, duration: timedelta) -> None:
    """As people write them, also in units that are not the shortest."""
    assert parse_duration(written) == duration


@pytest.mark.parametrize(
    "written",
    [
        "",
        "4",
        "4 h",
        "h",
        "-1h",
        "1.5h",
        "30m1h",
        "1h1h",
        "1e3s",
        "PT4H",
        "0.0000001s",
        "٤h",
        "4H",
        "9" * 20 + "d",
        4,
        4.0,
        None,
        True,
        ["4h"],
        {"h": 4},
    ],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    """By its field and with its path, never half understood."""
    (said,) = problems({**REQUEST, "policy": {"busy_host_timeout": written}})
    assert said.startswith("'busy_host_timeout' must be ")
    assert said.endswith(" @ $.policy.busy_host_timeout")
    assert repr(written) in said


@given(percentages())
def test_a_percentage_keeps_its_form(percentage: str) -> None:
    """It is not turned into a number on the way."""
    request = PatchRequest(**REQUEST, policy=RolloutPolicy(pilot_hosts=percentage))
    assert from_json(to_json(request), PatchRequest).policy.pilot_hosts == percentage


# Unknown fields


@pytest.mark.parametrize("wanted", WIRE_TYPES, ids=lambda each: each.__name__)
@few
@given(data=st.data())
def test_unknown_fields(wanted: type[WireType], data: st.DataObject) -> None:
    """Refused in what people ask for; ignored in what another release may have written."""
    value = data.draw(instances(wanted))
    newer = {**to_json(value), "of_the_next_release": 1}
    if wanted in ASKED:
        (said,) = problems(newer, wanted)
        assert said == "extra fields found (of_the_next_release) @ $"
    else:
        assert from_json(newer, wanted) == value


def test_unknown_fields_deeper_down() -> None:
    """Policies inside of a request are as strict; inside of what is read back nothing is."""
    assert problems({**REQUEST, "policy": {"nope": 1}}) == ("extra fields found (nope) @ $.policy",)
    assert problems({**REQUEST, "policy": {"pilot_host": 1}}) == (
        "extra fields found (pilot_host) @ $.policy, did you mean 'pilot_hosts'?",
    )
    nested = {"rollout": "r", "outcome": "PATCHED", "gates": [{"gate": "start", "nope": 1}]}
    assert from_json(nested, RolloutReport).gates == (GateReport(gate="start"),)


# Rubbish


def test_every_wrong_field_is_named_with_its_path() -> None:
    """All at once, in attrs' form, however deep."""
    assert problems(
        {
            "clusters": ["eu-1", 5, "a b"],
            "requestor": "carol@example.com",
            "services": "nginx",
            "secrets": {"key": "hunter2"},
            "policy": {
                "waves": ["10%", "200%", None],
                "failure_budget": {"max_failures": -1, "strict": "yes"},
            },
            "approvals": {"start": {"approvers": [], "timeout": "4 hours"}},
            "max_hosts": "10",
        }
    ) == (
        "extra fields found (requestor) @ $, did you mean 'requester'?",
        "'clusters[1]' must be a text (got 5) @ $.clusters[1]",
        "required field missing @ $.requester",
        "'services' must be a list (got 'nginx') @ $.services",
        "\"secrets['key']\" must be a reference like 'vault:path#key' or 'env:NAME', not the secret @ $.secrets",
        "'waves[2]' must be a whole number or a percentage like \"5%\" (got None) @ $.policy.waves[2]",
        "'max_failures' must be >= 0 (got -1) @ $.policy.failure_budget.max_failures",
        "'strict' must be true or false (got 'yes') @ $.policy.failure_budget.strict",
        "'approvers' must have at least 1 (got []) @ $.approvals.start.approvers",
        '\'timeout\' must be a duration like "90s", "15m" or "1h30m" (got \'4 hours\') '
        "@ $.approvals.start.timeout",
        "'max_hosts' must be a whole number (got '10') @ $.max_hosts",
    )


def test_how_fields_relate_is_said_with_the_path_too() -> None:
    """A quorum nobody can reach, a gate that is none, a host that is wanted and left out."""
    policy = {"approvers": ["alice"], "timeout": "4h"}
    assert problems({**REQUEST, "approvals": {"start": {**policy, "quorum": 2}}}) == (
        "'quorum' must be <= 1, the number of approvers (got 2) @ $.approvals.start",
    )
    own = {**REQUEST, "requester": "Alice "}
    assert problems(
        {**own, "approvals": {"start": policy}, "only_hosts": ["a"], "exclude_hosts": ["A"]}
    ) == (
        "'approvals['start'].approvers' must name somebody beside the requester, whose own vote does not "
        "count (got ['alice']) @ $",
        "'exclude_hosts' must not name hosts of 'only_hosts' (got ['a']) @ $",
    )
    (said,) = problems({**REQUEST, "approvals": {"strat": policy}})
    assert said.startswith("'approvals' must name gates of the rollout (got 'strat'): gates are ")
    assert said.endswith(" @ $")
    (said,) = problems({**REQUEST, "approvals": {"promote/nobody": policy}})
    assert said.endswith(": the request has no cluster 'nobody' @ $")


@pytest.mark.parametrize("value", [None, 5, "eu-1", True, 1.5, [], [REQUEST], [[]]])
def test_what_is_no_object_is_refused(value: object) -> None:
    """Whatever it is instead."""
    (said,) = problems(value)
    assert said.startswith("must be an object with the fields of PatchRequest (got ")
    assert said.endswith(" @ $")


@given(json_values)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_refused_or_a_request(value: Any) -> None:
    """No value is an error of another kind."""
    for wanted in (PatchRequest, Vote, HostTask, StepResult, ApprovalReport):
        try:
            assert isinstance(from_json(value, wanted), wanted)
        except InvalidRequest as refused:
            assert refused.problems  # noqa: PT017 - either way is fine


def kept(value: Any, written: Any) -> bool:
    """Whether what was written has all that was given; defaults may have been added to it."""
    if isinstance(value, dict) and isinstance(written, dict):
        return all(key in written and kept(each, written[key]) for key, each in value.items())
    return bool(type(value) is type(written) and value == written)


@given(st.sampled_from(sorted(attrs.fields_dict(PatchRequest))), json_values)
def test_any_json_in_any_field(name: str, value: Any) -> None:
    """A field that is refused is named; nothing is coerced: what passes is written as it was."""
    try:
        request = from_json({**REQUEST, name: value}, PatchRequest)
    except InvalidRequest as refused:
        wrong = [each for each in refused.problems if f"$.{name}" not in each]
    else:
        written = to_json(request)[name]
        wrong = [] if kept(value, written) else [f"{value!r} became {written!r}"]
    assert [each for each in wrong if not each.endswith(" @ $")] == []


def test_secrets_are_not_repeated() -> None:
    """A secret where its reference should be is refused without being quoted."""
    for make in (
        lambda: PatchRequest(**REQUEST, secrets={"key": "hunter2"}),
        lambda: from_json({**REQUEST, "secrets": {"key": "hunter2"}}, PatchRequest),
    ):
        with pytest.raises(InvalidRequest) as refused:
            make()
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        {**REQUEST, "clusters": [1] * 100_000},
        {**REQUEST, "clusters": "x" * 1_000_000},
        {**REQUEST, "services": [" "] * 100_000},
        {**REQUEST, **{f"field-{index}": 1 for index in range(100_000)}},
        {**REQUEST, "secrets": {f"k{index}": "x" for index in range(100_000)}},
        ["x" * 100] * 10_000,
    ],
    ids=["wrong list", "long text", "blank texts", "many fields", "secrets", "a list"],
)
def test_large_rubbish_is_told_in_few_words(value: Any) -> None:
    """A failure that is larger than a message may be would hang the workflow instead of ending it."""
    with pytest.raises(InvalidRequest) as refused:
        from_json(value, PatchRequest)
    assert len(str(refused.value)) < 100_000


@pytest.mark.parametrize(
    "value",
    [
        {"by": "alice", "reason": "\ud800", "gate": "\udfff\ud800"},
        {"by": "\ud800"},
        {"by": "alice", "\ud800": 1},
        {"by": ["\ud800"]},
        {"by": "alice", "reason": {"\ud800": "\ud800"}},
    ],
)
def test_half_a_surrogate_pair_becomes_text(value: Any) -> None:
    """JSON can hold it and protobuf cannot: in a failure's message it would hang the workflow."""
    try:
        vote = from_json(value, Vote)
    except InvalidRequest as refused:
        str(refused).encode()
    else:
        "".join((vote.by, vote.reason, vote.gate)).encode()
    assert from_json({"message": "\udcff", "output": "\udcff"}, StepResult).message == "?"


def test_python_is_as_strict_as_json() -> None:
    """What is built in Python is refused with the same words, without a path."""
    with pytest.raises(InvalidRequest) as refused:
        PatchRequest(
            clusters=["a", "A "],
            requester=" ",
            params={"x": object()},
            secrets={"k": "plain"},
            policy={"pilot_hosts": 1},  # type: ignore[arg-type]
            only_hosts=["-rf"],
            allow_empty="no",  # type: ignore[arg-type]
        )
    assert [said.split()[0] for said in refused.value.problems] == [
        "'clusters[1]'",
        "'clusters'",
        "'requester'",
        "\"secrets['k']\"",
        "\"params['x']\"",
        "'policy'",
        "'only_hosts[0]'",
        "'allow_empty'",
    ]
    with pytest.raises(InvalidRequest, match="labels\\['rack'\\]\" must be a text \\(got 7\\)"):
        Host(name="web-1", labels={"rack": 7})  # type: ignore[dict-item]


@pytest.mark.parametrize(("field", "longest"), [("by", 320), ("gate", 200), ("reason", 2_000)])
def test_a_vote_is_short(field: str, longest: int) -> None:
    """It goes into failures, queries and reports: it must fit into all of them."""
    told = {"by": "alice", field: "x" * longest}
    assert getattr(Vote(**told), field) == told[field]
    with pytest.raises(InvalidRequest, match=f"{field!r} must have at most {longest} characters"):
        Vote(**{**told, field: "x" * (longest + 1)})


def test_reports_are_bounded() -> None:
    """A reason cannot blow up a report, whoever wrote it; nobody's host is omitted for it."""
    long = "x" * 1_000_000
    report = HostReport(cluster="c", host="h", state=HostState.FAILED, reason=long, left_out=long)
    assert len(report.reason) <= 510
    assert len(report.left_out or "") <= 510
    assert len(StepResult(output=long, message=long).output) == 4096


def test_every_state_has_a_number() -> None:
    """In reports, also for those that did not occur."""
    report = ClusterReport(
        cluster="c", outcome=models.Outcome.PATCHED, counts={HostState.PATCHED: 3}
    )
    assert report.counts == {state: 3 if state is HostState.PATCHED else 0 for state in HostState}
    assert from_json(to_json(report), ClusterReport).counts == report.counts


# Types of the user's


@attrs.frozen
class Inner:
    size: int
    since: timedelta = timedelta(0)


@attrs.frozen
class AttrsParams:
    channel: str
    inner: Inner = Inner(1)
    tags: tuple[str, ...] = ()


@dataclass
class DataParams:
    channel: str
    inner: Inner
    build: int = 0


@attrs.frozen(kw_only=True)
class OwnWireType(WireType):
    channel: str
    state: HostState = HostState.PATCHED


def task(**params: object) -> HostTask:
    """A task with these parameters."""
    return HostTask(rollout="r", cluster="c", host="h", params=params)


def test_params_become_the_users_type() -> None:
    """An attrs class, a dataclass or wire type, with nested ones and durations."""
    assert task(channel="beta", inner={"size": 2, "since": "4h"}, tags=["a"]).params_as(
        AttrsParams
    ) == AttrsParams("beta", Inner(2, timedelta(hours=4)), ("a",))
    assert task(channel="beta", inner={"size": 2}).params_as(DataParams) == DataParams(
        "beta", Inner(2)
    )
    assert task(channel="beta", state="FAILED").params_as(OwnWireType).state is HostState.FAILED


@pytest.mark.parametrize("wanted", [AttrsParams, DataParams])
def test_params_that_do_not_fit_are_refused_by_field(wanted: type) -> None:
    """Every wrong field, also of a dataclass, with its path."""
    with pytest.raises(InvalidRequest) as refused:
        task(inner={"size": "big"}, chanel="beta").params_as(wanted)
    said = refused.value.problems
    assert len(said) == 3
    assert any(each.endswith("must be a whole number (got 'big') @ $.inner.size") for each in said)
    assert any(each.startswith("extra fields found (chanel) @ $") for each in said)
    assert "required field missing @ $.channel" in said


def test_no_class_of_the_users_is_kept() -> None:
    """The sandbox makes the user's classes anew for each workflow: none of them may stay."""
    kept: list[weakref.ref[type]] = []
    for index in range(30):
        made: list[type] = [
            attrs.make_class(f"Params{index}", {"channel": attrs.field(type=str)}, frozen=True),
            dataclass(type(f"Data{index}", (), {"__annotations__": {"channel": str}})),
            attrs.make_class(
                f"Wire{index}",
                {"channel": attrs.field(type=str, kw_only=True)},
                bases=(WireType,),
                frozen=True,
            ),
        ]
        for each in made:
            value: Any = task(channel="beta").params_as(each)
            assert to_json(value) == {"channel": "beta"}
            with pytest.raises(InvalidRequest):
                task(nope=1).params_as(each)
            kept.append(weakref.ref(each))
        del made, each, value
    gc.collect()
    alive = [ref() for ref in kept if ref() is not None]
    # What is bounded may stay: caches of the standard library and of the type system hold a few.
    assert len(alive) <= 6, f"{len(alive)} of {len(kept)} classes are kept: {alive[-3:]}"


def test_seeds_make_the_same_requests() -> None:
    """Writing is deterministic: a workflow that is replayed sends the same bytes."""
    for seed in range(50):
        rng = random.Random(seed)
        request = PatchRequest(**REQUEST, params={f"k{rng.randint(0, 99)}": seed for _ in range(5)})
        once = json.dumps(to_json(request))
        assert once == json.dumps(to_json(from_json(json.loads(once), PatchRequest)))


def test_mappings_are_read_as_mappings() -> None:
    """Order and content of mappings stay, keys are texts."""
    params: Mapping[str, object] = {"z": 1, "a": [1, {"b": None}]}
    request = from_json({**REQUEST, "params": params}, PatchRequest)
    assert list(request.params) == ["z", "a"]
    assert to_json(request)["params"] == params


@pytest.mark.parametrize("wrong", [[], "", "x", 0, False, [["pilot_hosts", 1]]], ids=repr)
def test_only_an_object_is_an_object(wrong: Any) -> None:
    """What is empty, or no object, does not pass for one whose fields have all their defaults."""
    said = f"must be an object with the fields of RolloutPolicy (got {wrong!r}) @ $.policy"
    assert problems({**REQUEST, "policy": wrong}) == (said,)
    assert len(problems(wrong, StepResult)) == 1


@pytest.mark.parametrize("depth", [100, 900, 20_000])
@pytest.mark.parametrize("place", ["params", "clusters"])
def test_deep_nesting_is_read_or_refused(place: str, depth: int) -> None:
    """However deep it is nested, it is read or refused; no RecursionError comes out."""
    nested: Any = "end"
    for _ in range(depth):
        nested = [nested]
    wrong = {"deep": nested} if place == "params" else nested
    try:
        request = from_json({**REQUEST, place: wrong}, PatchRequest)
    except InvalidRequest as error:
        assert len(error.message) < 2_000  # noqa: PT017 - it may be read, too
    else:  # what is taken can also be handed on
        assert place == "params"
        assert to_json(request)["params"] == wrong


if __name__ == "__main__":
    DEFAULTS.write_text(json.dumps(all_defaults(), indent=2) + "\n", encoding="utf-8")
