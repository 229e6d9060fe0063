"""Descriptors on disk, and the nearest of them.

For the stages `extract` and `retrieve`. It writes `features/index.h5` and `features/test.h5` by `features`,
and `rankings/retrieved.h5` by `rankings`, which read them for all others. `top_k` searches arrays and open
stores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
