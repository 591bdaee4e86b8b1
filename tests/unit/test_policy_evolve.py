"""How the machines' states go from one to the next."""

from __future__ import annotations

import attrs
import pytest

from temporal_patching.policy._cluster import ClusterState, cluster_state
from temporal_patching.policy._evolve import evolve
from temporal_patching.policy._host import Procedure
from temporal_patching.policy._rollout_policy import RolloutPolicy, cluster_plan
from temporal_patching.policy._rollout_state import ClusterView, RolloutState
from temporal_patching.policy._tally import Group, Tally

STATES = (Procedure, Group, Tally, ClusterState, ClusterView, RolloutState)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_state_is_plain_data(state: type[attrs.AttrsInstance]) -> None:
    """Nothing in it is validated, converted or worked out when it is made, so a copy is as good as a new one."""
    for field in attrs.fields(state):
        assert field.validator is None, field.name
        assert field.converter is None, field.name
        assert field.init, field.name
    assert not hasattr(state, "__attrs_post_init__")
    assert not hasattr(state, "__attrs_pre_init__")
    assert not any("__slots__" in vars(base) for base in state.__mro__ if base is not object)


def test_the_next_state_is_another_one() -> None:
    """It is what ``attrs.evolve`` makes, frozen like the one before, which stays as it is."""
    before = cluster_state(cluster_plan(RolloutPolicy(), 3))
    after = evolve(before, slots=2, draining=True)
    assert after == attrs.evolve(before, slots=2, draining=True)
    assert (before.slots, before.draining) == (0, False)
    assert type(after) is ClusterState
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        after.slots = 3  # type: ignore[misc]


def test_there_is_no_other_field() -> None:
    """A name that is misspelt is refused, as ``attrs.evolve`` does."""
    with pytest.raises(TypeError, match="Group has no field limitt"):
        evolve(Group(wave=1, limit=1), limitt=2)  # type: ignore[call-arg]
