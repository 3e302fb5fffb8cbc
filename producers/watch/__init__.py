"""Watched folders: keep the index equal to a folder for as long as the watch runs.

A file system event only marks a path to be examined. Once the path has been quiet for a while, its
current state decides what to do, under a version that was read before the examination. So whatever
events arrive, in any order, the last decision about a file is about the file as it is now. Changes
that no event reported are found by the next scan.
"""
