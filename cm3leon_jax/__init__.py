"""CM3Leon in JAX: one transformer that reads and writes any sequence of text and images.

The rooms, by floor; a module imports from lower floors or from its own room:

    10 main        the one command: --config --workdir; runs the job that a config names
    9  jobs        the wiring; the only readers of a ConfigDict
    7  api         the face for Python users: load(path) -> draw, caption, answer, edit
    6  evals       numbers;  reports: pages that a person looks at
    5  data        sources, shards, the loader
    4  retrieval   which documents to put before this one
       train       what changes parameters: losses, optimizer, step, loop, checkpoints
       decoding    logits -> tokens: requests, grammar, guidance, the engine
       tasks       one file a task: templates, target, answer parsed
    3  embedders   pictures and text -> vectors (text by a tokenizer)
    2  tokenizers  strings and pictures <-> ids
    1  documents   what a training sequence is: documents, the CM3 rewrite, packed rows
       models      Flax modules for one device
       scenes      the built-in picture world
    0  vocab       which ids are which;  sharding: the mesh;  storage: arrays on disk
"""
