"""The bundled Qdrant: its engine in a process of its own, behind a part of Qdrant's REST interface.

``python -m ingestq.embedded.qdrant FOLDER --socket PATH`` serves the collections of ``FOLDER``. In
that process the modules build on each other in this order:

    errors       what a request is refused with, and what the engine's errors become
    filters      conditions
    limits       strict mode, and the payload indexes that requests need
    schema       the configuration of a collection, and of the shard that stores it
    catalog      the file that says which collections and aliases there are
    aliases      changes of aliases
    files        a shard's files: created, opened, made durable
    points       points in requests and in answers
    queries      requests that read
    shard        one open shard: its writer thread, its log, its flushes
    updates      requests that write, in steps
    compaction   a shard copied without the room of deleted points
    collections  all of them, with the catalog
    app          routes and envelopes
"""
