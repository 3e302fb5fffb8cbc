"""The index benchmark: how fast documents get into the index, and how searches fare meanwhile.

`benchmarks.index.__main__` lists what is measured, each in a module of its own.
"""
