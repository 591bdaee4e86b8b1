"""The procedure as data: changed without boilerplate, refused when it makes no sense."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import RetryPolicy as RetryPolicyMessage
from temporalio.common import RetryPolicy

from temporal_patching.activity import PatchActivities
from temporal_patching.activity._activities import implemented, takes_task
from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import HostTask
from temporal_patching.policy import DEFAULT_STEPS, Step, Steps
from temporal_patching.policy._rules import LONGEST
from temporal_patching.policy._steps import KINDS, resolve
from temporal_patching.workflow import HostPatchWorkflow
from tests.strategies import retry_policies

EVERY = set(KINDS)


def problems(make: Any) -> tuple[str, ...]:
    """What is refused."""
    with pytest.raises(InvalidRequest) as refused:
        make()
    return refused.value.problems


def test_the_default_procedure_is_the_workshops() -> None:
    """Twelve steps in their order; two take, each with its closer; one returns to service."""
    assert DEFAULT_STEPS.names == (
        "check_preconditions",
        "run_pre_downtime_scripts",
        "set_maintenance_mode",
        "stop_services",
        "wait_for_workload_drain",
        "run_pre_update_scripts",
        "perform_update",
        "start_services",
        "run_post_update_scripts",
        "reboot",
        "check_service_health",
        "clear_maintenance_mode",
    )
    assert {step.name: step.closed_by for step in DEFAULT_STEPS if step.kind == "takes"} == {
        "set_maintenance_mode": "clear_maintenance_mode",
        "stop_services": "start_services",
    }
    assert [step.name for step in DEFAULT_STEPS if step.returns_to_service] == [
        "clear_maintenance_mode"
    ]


@given(st.data())
def test_a_step_goes_where_it_is_put(data: st.DataObject) -> None:
    """before, after, replace and without change that place and nothing else."""
    name = data.draw(st.sampled_from(DEFAULT_STEPS.names))
    at = DEFAULT_STEPS.names.index(name)
    one, two = Step("one"), Step("two")
    before = DEFAULT_STEPS.before(name, one, two).names
    after = DEFAULT_STEPS.after(name, one, two).names
    assert before == (*DEFAULT_STEPS.names[:at], "one", "two", *DEFAULT_STEPS.names[at:])
    assert after == (*DEFAULT_STEPS.names[: at + 1], "one", "two", *DEFAULT_STEPS.names[at + 1 :])
    slower = attrs.evolve(DEFAULT_STEPS[at], start_to_close_timeout=timedelta(hours=3))
    replaced = DEFAULT_STEPS.replace(name, slower)
    assert replaced.names == DEFAULT_STEPS.names
    assert replaced[at] == slower
    assert Steps(DEFAULT_STEPS) == DEFAULT_STEPS


def test_steps_are_left_out_with_their_closers() -> None:
    """A taking step without its closer is refused, together they go."""
    rest = DEFAULT_STEPS.without("stop_services", "start_services")
    assert set(DEFAULT_STEPS.names) - set(rest.names) == {"stop_services", "start_services"}
    DEFAULT_STEPS.check()
    rest.check()
    assert problems(lambda: DEFAULT_STEPS.without("start_services").check()) == (
        "step 'stop_services' is closed by 'start_services', which must come after it and be of "
        "kind 'closes'",
    )


def test_a_taking_step_may_be_added_before_its_closer() -> None:
    """In the order in which they are read; only a complete procedure is checked."""
    steps = DEFAULT_STEPS.before(
        "stop_services", Step("silence_alerts", kind="takes", closed_by="restore_alerts")
    ).after("check_service_health", Step("restore_alerts", kind="closes"))
    steps.check()
    with pytest.raises(InvalidRequest, match="'silence_alerts' is closed by 'restore_alerts'"):

        class Incomplete(HostPatchWorkflow):
            steps = DEFAULT_STEPS.before(
                "stop_services", Step("silence_alerts", kind="takes", closed_by="restore_alerts")
            )


@pytest.mark.parametrize("method", ["before", "after", "without", "replace"])
def test_a_misspelt_step_is_refused_at_once(method: str) -> None:
    """With a hint: it would otherwise be found in the middle of a rollout."""
    arguments = [] if method == "without" else [Step("rebuild_initramfs")]
    assert problems(lambda: getattr(DEFAULT_STEPS, method)("preform_update", *arguments)) == (
        "'preform_update' is not a step of this procedure, did you mean 'perform_update'?",
    )


def test_a_procedure_that_makes_no_sense_is_refused() -> None:
    """Two steps of one name, two updates, a closer that comes too early or is none."""
    take = Step("drain", kind="takes", closed_by="undrain")
    assert problems(lambda: Steps([Step("a"), Step("a")])) == ("step 'a' must be there once",)
    assert problems(lambda: Steps([Step("a", kind="update"), Step("b", kind="update")])) == (
        "there must be one step of kind 'update' (got ['a', 'b'])",
    )
    for steps in ([take], [Step("undrain", kind="closes"), take], [take, Step("undrain")]):
        assert problems(lambda steps=steps: Steps(steps).check()) == (
            "step 'drain' is closed by 'undrain', which must come after it and be of kind 'closes'",
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "_private"}, "'name' must be the name of a public method (got '_private')"),
        ({"name": "no-name"}, "'name' must be the name of a public method (got 'no-name')"),
        ({"kind": "takes"}, "'closed_by' must name the step that gives back what 'x' takes away"),
        ({"closed_by": "y"}, "'closed_by' goes with kind='takes' (got kind='plain')"),
        (
            {"returns_to_service": True},
            "'returns_to_service' goes with kind='closes' (got kind='plain')",
        ),
        (
            {"kind": "update", "local": True},
            "'local' must be False for 'x': a local activity has no heartbeat",
        ),
        (
            {"kind": "updat"},
            "'kind' must be in ('gate', 'takes', 'update', 'closes', 'plain', 'reboot', 'health') "
            "(got 'updat'), did you mean 'update'?",
        ),
        ({"start_to_close_timeout": 5}, "'start_to_close_timeout' must be a timedelta (got 5)"),
        (
            {"heartbeat_timeout": timedelta(0)},
            "'heartbeat_timeout' must be > 0 seconds (got datetime.timedelta(0))",
        ),
        ({"shielded": 1}, "'shielded' must be True or False (got 1)"),
        ({"retry_policy": 3}, "'retry_policy' must be a RetryPolicy (got 3)"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(arguments: dict[str, Any], said: str) -> None:
    """By its field's name, with the value and what is allowed."""
    told = {"name": "x", **arguments}
    assert problems(lambda: Step(told.pop("name"), **told)) == (said,)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (RetryPolicy(maximum_attempts=-1), "maximum_attempts"),
        (RetryPolicy(maximum_attempts=2**31), "maximum_attempts"),
        (RetryPolicy(backoff_coefficient=0.5), "backoff_coefficient"),
        (RetryPolicy(backoff_coefficient=float("nan")), "backoff_coefficient"),
        (RetryPolicy(backoff_coefficient=float("inf")), "backoff_coefficient"),
        (RetryPolicy(initial_interval=timedelta(-1)), "initial_interval"),
        (RetryPolicy(initial_interval=timedelta.max), "initial_interval"),
        (RetryPolicy(maximum_interval=timedelta.max), "maximum_interval"),
        (
            RetryPolicy(initial_interval=timedelta(2), maximum_interval=timedelta(1)),
            "maximum_interval",
        ),
    ],
)
def test_a_retry_policy_that_the_sdk_refuses_is_refused_here(
    policy: RetryPolicy, field: str
) -> None:
    """The SDK looks when the step is scheduled: then the closers would not run either."""
    (said,) = problems(lambda: Step("x", retry_policy=policy))
    assert said.startswith(f"'retry_policy.{field}' must be ")


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(maximum_attempts=2**31 - 1),
        RetryPolicy(maximum_attempts=1, backoff_coefficient=1),
        RetryPolicy(maximum_attempts=1, initial_interval=timedelta(0)),
        RetryPolicy(maximum_attempts=1, initial_interval=LONGEST, maximum_interval=LONGEST),
        RetryPolicy(maximum_attempts=1, initial_interval=LONGEST, maximum_interval=None),
        RetryPolicy(maximum_attempts=1, maximum_interval=timedelta(0)),
    ],
)
def test_what_the_sdk_just_takes_is_taken_here(policy: RetryPolicy) -> None:
    """To the edges."""
    assert Step("x", retry_policy=policy).retry_policy == policy


def test_all_but_the_name_of_a_step_is_given_by_name() -> None:
    """Nobody is to count commas; and fields may come in any order in a later release."""
    step: Any = Step  # as one may write it without a type checker
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        step("x", None)
    plain = Step("x")
    assert (plain.kind, plain.closed_by, plain.returns_to_service) == ("plain", None, False)
    assert (plain.shielded, plain.local) == (False, False)


def test_a_step_is_not_tried_for_ever() -> None:
    """The SDK's own default has no limit: a broken step would never fail, and its closers never run."""
    (said,) = problems(lambda: Step("x", retry_policy=RetryPolicy()))
    assert "it would be tried for ever" in said
    limit = timedelta(hours=1)
    assert Step("x", retry_policy=RetryPolicy(), schedule_to_close_timeout=limit).name == "x"


def test_a_step_is_replaced_by_its_own_name() -> None:
    """A step alone takes the place of the one of its name; nothing of the old one is kept."""
    new = Step("reboot", start_to_close_timeout=timedelta(hours=1))
    assert DEFAULT_STEPS.replace(new) == DEFAULT_STEPS.replace("reboot", new)
    replace: Any = DEFAULT_STEPS.replace  # as one may write it without a type checker
    assert problems(lambda: replace("reboot")) == (
        "'step' must be given: what comes in the place of 'reboot'?",
    )
    (said,) = problems(lambda: replace(new, Step("update_firmware")))
    assert said.startswith("'name' must be the name of a step")
    (said,) = problems(lambda: DEFAULT_STEPS.replace(Step("rebot")))
    assert said.endswith("did you mean 'reboot'?")


@given(retry_policies())
def test_a_retry_policy_that_is_accepted_is_one_for_the_sdk(policy: RetryPolicy) -> None:
    """Whatever passes here can be scheduled."""
    Step("x", retry_policy=policy).retry_policy.apply_to_proto(RetryPolicyMessage())


# Which steps run


def test_default_steps_that_are_not_implemented_do_not_run() -> None:
    """The order stays; the update must be there."""
    names = [step.name for step in resolve(DEFAULT_STEPS, ["perform_update", "reboot"])]
    assert names == ["perform_update", "reboot"]
    assert resolve(DEFAULT_STEPS, EVERY) == tuple(DEFAULT_STEPS)


@pytest.mark.parametrize(
    ("steps", "methods", "unnamed", "said"),
    [
        (
            DEFAULT_STEPS,
            {"preform_update"},
            {"preform_update"},
            [
                "step 'perform_update' has no method of its name in the activities class, "
                "did you mean 'preform_update'?",
                "method 'preform_update' takes a HostTask, but no step has its name, "
                "did you mean 'perform_update'?",
            ],
        ),
        (
            DEFAULT_STEPS.after("perform_update", Step("rebuild")),
            EVERY,
            set(),
            [
                "step 'rebuild' has no method of its name in the activities class",
            ],
        ),
        (
            DEFAULT_STEPS,
            EVERY - {"start_services"},
            set(),
            [
                "step 'stop_services' takes something away, but its closer 'start_services' "
                "has no method in the activities class",
            ],
        ),
        (
            Steps([Step("reboot")]),
            {"reboot"},
            set(),
            [
                "the steps must have one of kind 'update', 'perform_update' usually",
            ],
        ),
    ],
)
def test_what_cannot_run_is_refused(
    steps: Steps, methods: set[str], unnamed: set[str], said: list[str]
) -> None:
    """Before anything is touched, all at once, with a hint."""
    assert problems(lambda: resolve(steps, methods, unnamed)) == tuple(said)


def test_what_is_meant_to_be_a_step() -> None:
    """By its name, by what it takes, or, without annotations, by what looks like one."""

    class Hosts(PatchActivities):
        def perform_update(self, anything):  # type: ignore[no-untyped-def]
            """A step's name."""

        def rebuild(self, x: HostTask) -> None:
            """Takes a HostTask."""

        def rebuild_more(self, task):  # type: ignore[no-untyped-def]
            """Its argument is called so."""

        def check_service_heath(self, it):  # type: ignore[no-untyped-def]
            """A slip of the pen."""

        def connect(self, host):  # type: ignore[no-untyped-def]
            """Their own."""

        def address(self, host: str) -> str:
            """Their own."""
            return host

        def both(self, task, more):  # type: ignore[no-untyped-def]
            """Their own."""

        @staticmethod
        def connection(task):  # type: ignore[no-untyped-def]
            """Their own: it has no self."""

        make_index = dict  # a callable without a signature

    steps = [name for name in sorted(implemented(Hosts)) if takes_task(Hosts, name)]
    assert steps == ["check_service_heath", "perform_update", "rebuild", "rebuild_more"]
