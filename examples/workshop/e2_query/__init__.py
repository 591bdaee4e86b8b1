"""Exercise 2: query the completed steps of rollout, cluster and host."""
