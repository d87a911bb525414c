"""Sequences by the million: sources, shards, the loader.

May import: floors 0 to 4.
"""
