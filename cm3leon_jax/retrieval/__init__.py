"""Which documents to put before this one: index, strategy, neighbours.

May import: floors 0 to 3.
"""
