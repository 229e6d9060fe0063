"""Methods that give the results of a search another order, one file per method, and chains of methods.

For the stage `rerank`. It reads `rankings/retrieved.h5` and the features, and writes `rankings/reranked.h5`.
Other packages use `Reranker`, and `geometric` for the matches that they draw.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
