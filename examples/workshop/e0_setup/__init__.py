"""Exercise 0: a worker, a client, the web UI, and a rollout without approval."""
