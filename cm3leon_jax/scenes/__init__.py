"""The built-in picture world: data that is always at hand, and judges itself.

NumPy and Pillow only. May import: vocab, storage.
"""
