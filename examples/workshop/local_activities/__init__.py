"""Local activities: fewer events and less time for short steps, and what they cannot do."""
