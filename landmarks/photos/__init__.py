"""The photos on disk: what is one, of which landmark, and which part of the split it belongs to.

For the stages `check`, `create_csv` and `split`. It reads `data/<dataset>/`, and writes `data/catalog.csv`,
`data/near_copies.csv`, `data/rejected.csv`, `data/ground_truth.csv` and `data/splits/`. Others open photos by
`images`, and read and write their tables by `catalog` and `ground_truth`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
