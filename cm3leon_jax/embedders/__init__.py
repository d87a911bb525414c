"""Pictures and text to unit vectors.

May import: floors 0 and 1.
"""
