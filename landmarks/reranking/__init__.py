"""Methods that give the results of a search another order, and chains of them: a file a method.

For the stage `rerank`. It reads `rankings/retrieved.h5` and the features, and writes `rankings/reranked.h5`.
Others use `Reranker`, and `geometric` for the matches that they draw.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
