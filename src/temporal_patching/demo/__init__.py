"""A rollout on your own machine: ``python -m temporal_patching demo``.

Read ``_hosts.py`` and ``_workflows.py`` first: that is all a user of the library writes; ``_story.py`` is
what an operator does. The rest is the stage: ``_machines.py`` are the "hosts" (directories with a real
package and a real service each), ``_wheels.py`` packs the software ``_webshop.py`` into releases,
``_keeper.py`` owns the server and the folder, ``_show.py`` prints, ``_verify.py`` compares the report with
what the directories really hold.
"""

from ._command import main

__all__ = ["main"]
