"""The command line, for an operator: ``temporal-patching`` (or ``python -m temporal_patching``).

It needs the extra ``cli``. ``_commands.py`` has the commands, each a call of ``Rollout``; ``_connect.py`` finds
the server, ``_show.py`` says for people what was answered, ``_exits.py`` what each exit code means.
"""

from ._main import main

__all__ = ["main"]
