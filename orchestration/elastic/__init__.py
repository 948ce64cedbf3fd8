"""Trainings that go on with fewer machines, and grow when more come.

    sizes     how many workers may train: those that share every batch equally          (pure)
    places    which of these numbers the machines have room for   driver: before each start, and rank 0: whether more would fit
    change    workers, rollout actors, nodes: how many there were and are, and why      (pure)
    events    each change is a line on the terminal, a line in logs/events.jsonl, a metric
    watch     a thread of the driver that sees nodes come and go, and asks the rollout pool what became of its actors

A start of the training has one size, from its first step to its end. Ray Train can resize by itself (`num_workers=(min, max)`), but it ends
workers between two checkpoints, takes any number in between, and counts machines that others use: so sizes are chosen here, and Ray is
given one number.
"""
