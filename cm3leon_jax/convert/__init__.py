"""Flax to PyTorch and back, each one table of names and layouts.

May import: floors 0 to 2.
"""
