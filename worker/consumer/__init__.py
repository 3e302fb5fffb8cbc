"""Takes jobs off the queue under leases, runs them, and acks or nacks them.

Read it in this order: `lease_worker` is the loop; `claiming` says when it claims jobs; `job_runner`
runs a claimed job by one of the `job_functions`, and a poison job document by document; `decision`
turns the outcomes into one decision, ack or nack; `decision_writer` writes that to Redis.
`progress` reports how far the jobs are, and that the worker is alive.
"""
