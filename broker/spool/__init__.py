"""Content that is too large for the queue: kept beside it, until its document came to its end.

A document names its content, an *object*, which is written once and never changed. Whoever puts the
document on the queue wrote the object before; whoever writes down what became of the document
removes it after. What nobody removed, because a process died in between, `broker.spool.leftovers`
finds.
"""
