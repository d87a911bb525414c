"""Small pictures to large ones.

May import: floors 0 and 1.
"""
