"""The photos on disk: which files are photos, of which landmark, and in which part of the split.

For the stages `check`, `create_csv` and `split`. It reads `data/<dataset>/`, and writes `data/catalog.csv`,
`data/near_copies.csv`, `data/rejected.csv`, `data/ground_truth.csv` and `data/splits/`. Other packages open
photos by `images`, and read and write the tables by `catalog` and `ground_truth`. `asking` also uses
`folders` and `fetching`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
