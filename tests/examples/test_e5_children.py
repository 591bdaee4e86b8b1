"""Exercise 5: the tree that the server knows, and what is left when its top is terminated."""

from __future__ import annotations

from examples.workshop.e5_children import run
from examples.workshop.e5_children.run import Node
from examples.workshop.stage import Stage
from examples.workshop.web import browser


async def test_the_tree_and_what_becomes_of_it(stage: Stage) -> None:
    """A rollout has a child for each cluster and each host; they end well when it is terminated."""
    seen = await run.show(stage)

    assert seen.tree.type == "SystemPatchWorkflow"
    assert [cluster.type for cluster in seen.tree.children] == ["ClusterPatchWorkflow"] * 2
    assert _hosts(seen.tree) == {f"patch-host/{host}": "COMPLETED" for host in stage.hosts("e5", 6)}
    assert {node.status for node in seen.tree.all()} == {"COMPLETED"}
    assert all(node.summary for node in seen.tree.all())

    assert {node.status for node in seen.by_hand.tree.all()} == {"TERMINATED"}
    assert seen.by_hand.stopped == ["e5-by-hand-a", "e5-by-hand-b"]

    assert seen.with_library.tree.status == "TERMINATED"
    assert [cluster.status for cluster in seen.with_library.tree.children] == ["FAILED", "FAILED"]
    assert set(_hosts(seen.with_library.tree).values()) == {"COMPLETED"}
    assert seen.with_library.stopped == []

    *rows, picture = run.rows(seen)
    assert all(row.holds for row in rows)
    if browser() is None:
        assert picture.holds is None
    else:
        assert picture.holds
        assert seen.picture is not None
        assert seen.picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def _hosts(tree: Node) -> dict[str, str]:
    return {host.id: host.status for cluster in tree.children for host in cluster.children}
