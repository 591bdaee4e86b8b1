"""Patch fleets of machines with Temporal, without taking the service down.

This module offers nothing but ``__version__``. Import from the room that your code runs in:

* :mod:`temporal_patching.workflow`: inside a workflow. Classes to subclass, approval, ``gather``.
* :mod:`temporal_patching.activity`: against the machines. ``PatchActivities``, ``Checkpoint``.
* :mod:`temporal_patching.client`: for an operator. ``Rollout``, ``Approvals``.
* :mod:`temporal_patching.worker`: ``PatchingPlugin``, which registers everything on a worker.
* :mod:`temporal_patching.models`: what travels: requests, tasks, results, reports.
* :mod:`temporal_patching.policy`: the rules as data, and the pure functions that apply them.
* :mod:`temporal_patching.exceptions`: every failure, with the type string that a client sees.
* :mod:`temporal_patching.testing`: a simulated fleet for your own tests.
* :mod:`temporal_patching.contrib`: ready-made adapters that need a third-party package.

Importing it imports none of the rooms: whatever it loaded, each workflow sandbox would load again.

Example:
    >>> import temporal_patching
    >>> temporal_patching.__version__.startswith("0.")
    True
"""

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from importlib.metadata import version

    return version("temporal-patching")
