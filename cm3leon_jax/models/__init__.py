"""Flax modules for one device. They know no mesh, file, config or tokenizer.

May import: vocab, storage, sharding (logical axis names).
"""
