"""Weights of other programs into ours and back: tables of names and layouts.

May import: floors 0 to 2.
"""
