"""Pages that a person looks at.

May import: floors 0 to 5.
"""
