"""Landmark retrieval: describe photos, search, re-rank and score.

The packages follow the data: `photos`, `describing`, `training`, `searching`, `reranking`, `scoring`,
`asking`.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
