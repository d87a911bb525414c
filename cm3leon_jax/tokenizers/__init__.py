"""Strings and pictures to ids and back.

May import: floors 0 and 1.
"""
