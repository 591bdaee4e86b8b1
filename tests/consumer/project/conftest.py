pytest_plugins = ["temporal_patching.testing.pytest_plugin"]
