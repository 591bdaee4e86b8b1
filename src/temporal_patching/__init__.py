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
* :mod:`temporal_patching.cli`: the command line for an operator (extra ``cli``).

Importing it imports none of the rooms. Inside of a workflow sandbox it passes them through, as the
plugin does, so that the parts work on any worker, and cost a workflow nothing.

Example:
    >>> import temporal_patching
    >>> temporal_patching.__version__.startswith("0.")
    True
"""

import sys

__all__ = ["__version__"]

__version__: str


def _pass_through() -> None:
    from types import ModuleType

    from temporalio import workflow

    if workflow.unsafe.in_sandbox():
        # Imported anew for each workflow they would cost it 30 ms, and cattrs does not survive that.
        with workflow.unsafe.imports_passed_through():
            for room in ("exceptions", "policy", "models", "workflow", "activity", "client"):
                # Not importlib, which the sandbox does not see.
                module: ModuleType = __import__(f"{__name__}.{room}", fromlist=["*"])
                for part in tuple(vars(module).values()):  # where type hints are looked up
                    if isinstance(part, ModuleType) and part.__name__.startswith(module.__name__):
                        __import__(part.__name__)


if "temporalio.workflow" in sys.modules:  # as it always is inside of a sandbox
    _pass_through()


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from importlib.metadata import version

    return version("temporal-patching")
