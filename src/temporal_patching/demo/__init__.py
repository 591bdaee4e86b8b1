"""A rollout on your own machine: ``python -m temporal_patching demo``.

Read ``hosts.py`` and ``workflows.py`` first: that is all a user of the library writes; ``story.py`` is
what an operator does. The rest is the stage: ``machines.py`` are the "hosts" (directories with a real
package and a real service each), ``wheels.py`` packs the software ``webshop.py`` into releases,
``keeper.py`` owns the server and the folder, ``show.py`` prints, ``verify.py`` compares the report with
what the directories really hold.
"""

from .command import main

__all__ = ["main"]
