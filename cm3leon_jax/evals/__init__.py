"""Numbers for papers: each is evaluate(...) -> dict[str, float].

May import: floors 0 to 5.
"""
