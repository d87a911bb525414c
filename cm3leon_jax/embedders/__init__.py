"""Pictures and text to unit vectors.

May import: floors 0 to 2.
"""
