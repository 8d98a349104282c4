"""Whole objects from photographs: which instances of a picture are fit to learn shapes from.

Nothing here imports torch, except `models`: a worker process starts in a moment and stays small.
"""
