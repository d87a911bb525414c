"""Logits to tokens: requests, grammar, guidance, the engine.

May import: floors 0 to 3.
"""
