"""Execution limits: what happens at them, and that a rollout stays below."""
