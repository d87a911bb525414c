"""Further orders of candidates, one file each, named by `strategy.rule` in a config.

A rule has `rank(found)`, from `strategy.Candidates` to float[N, K]: larger comes first in
place of relevance; relevance itself is kept beside the neighbour. May import: floors 0 to
2, `retrieval.strategy` for its types.
"""
