"""`mutual-forcing chaos`: break a run on its own cluster on purpose, and see whether every clip and update is still accounted for.

    schedule (seed -> what, when, whom)                      no Ray in it
        |
    conduct: for each event, at its time ----- acts ----> a task on the machine ----> holder: breaks it, and mends it by a deadline
        |                                        ^
        |                                     targets: processes of the run's job, as Ray and the machine itself know them
      watch (steps of the run, before and after)
        |
    verdict (ledger, dataset, metrics) -> timeline (PNG), record (JSON)

What stays broken for a while is held by a process of its own, so that it is mended even when `chaos` is killed.
"""
