"""``trail simulate``: the engine model and the production planner in one process, on one virtual clock."""
