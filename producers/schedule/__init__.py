"""Scheduled entries: what runs when, and the scheduler that runs it.

A run may take hours, so it is not a job on the queue: a scheduler runs it itself, under a lease
(see `ingestq.broker.schedule.runs`). What a run does is a port,
`producers.schedule.runner.ActionHandler`.
"""
