"""Versioning: the procedure gets a step more while a rollout runs."""
