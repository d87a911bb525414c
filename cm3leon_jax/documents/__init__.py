"""What a training sequence is: documents, the causal-masked rewrite, packed rows.

NumPy only: it runs in data workers that never load JAX. May import: vocab, storage.
"""
