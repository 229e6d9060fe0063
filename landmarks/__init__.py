"""Landmark retrieval: describe photos, search, re-rank and score.

The packages follow the data: `photos`, `describing`, `training`, `searching`, `reranking`, `scoring`,
`asking`.
"""

__version__ = "0.2.0"
