"""Descriptors on disk, and the nearest of them.

For the stages `extract` and `retrieve`. `features` writes `features/index.h5` and `features/test.h5`, and
`rankings` writes `rankings/retrieved.h5`; these two also read them for all other packages. `search.top_k`
searches arrays and open stores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
