"""Ready-made adapters, one module for each third-party package that they need.

* :mod:`temporal_patching.contrib.ssh`: run commands on hosts. ``temporal-patching[ssh]``

Nothing is imported here, so that an adapter costs only those who use it.
"""

__all__: list[str] = []
