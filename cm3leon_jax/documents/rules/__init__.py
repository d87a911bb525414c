"""Further rules of what is masked, one file a rule, named by `cm3.rule` in a config.

A rule has `draw(ids, rng, vocab)`, which returns int[S, 2]: [start, end) of disjoint spans,
none empty, none with `</s>` within. May import: floors 0 and 1.
"""
