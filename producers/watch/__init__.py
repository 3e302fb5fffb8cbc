"""Watched folders: the index is kept equal to them for as long as somebody runs this.

An event only says where to look. What is done about it is decided by what is there when nothing
changed for a while, at a version that was read before the look: so whatever events come, in any
order, the last decision about a file is about the file as it is. What no event told of is found by
the next scan.
"""
