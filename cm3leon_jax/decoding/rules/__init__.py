"""Further rules of what may be drawn, one file a rule, named by `sampling.rule`.

A rule has `steer(logits_BV)`, a pure function to float32[B, V] that keeps one finite id a
row: it is compiled into the loop, after streams became one and the temperature was
applied, before top-k and top-p. Ids that may not follow are -inf already. May import:
floors 0 and 1.
"""
