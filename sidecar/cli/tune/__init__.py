"""``trail tune``: the scheduler's settings for one's own load and memory, found by simulation."""
