"""How good rankings are: average precision, accuracy, published protocols, and pictures of them.

For the stages `evaluate` and `gallery`. It reads `rankings/reranked.h5` and `data/ground_truth.csv`, and
writes `reports/`. Other packages score arrays by `measures`, draw sheets by `gallery`, and read what was
reached by `reports`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
