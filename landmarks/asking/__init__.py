"""Questions to what the pipeline made: from Python, from the command line and from a web page.

It reads `models/model.safetensors`, `features/index.h5` and `reports/`, and writes nothing that a stage
reads.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
