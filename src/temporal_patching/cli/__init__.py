"""The command line, for an operator: ``temporal-patching`` (or ``python -m temporal_patching``).

It needs the extra ``cli``. ``_look.py``, ``_planning.py`` and ``_steer.py`` have the commands, each a call of
``Rollout``; ``_command.py`` what they have in common, ``_commands.py`` the program that they make; ``_connect.py``
finds the server, ``_show*.py`` say for people what was answered, on a ``_screen.py``; ``_exits.py`` says what each
exit code means.
"""

from ._main import main

__all__ = ["main"]
