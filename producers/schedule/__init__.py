"""Scheduled entries: what is to be done when, and who does it.

A run may take hours, so it is no job on the queue: a scheduler runs it itself, under a lease (see
`ingestq.broker.schedule.runs`). What it does is a port, `producers.schedule.runner.Act`.
"""
