"""Questions to what the pipeline made: from Python, from the command line and from a web page.

It reads `models/model.safetensors`, `features/index.h5` and `reports/`. No stage reads what it writes, but
for published photos and ground truth, which the command line brings into `data/<dataset>/`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
