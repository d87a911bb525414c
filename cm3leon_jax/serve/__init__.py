"""The page to try a model on.

May import: floors 0 to 6.
"""
