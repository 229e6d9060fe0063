"""From photos to descriptors, float32 (N, D): networks, poolings and whitenings, or SIFT and VLAD.

For the stages `model` and `extract`. It reads photos and weights, and writes `models/model.safetensors`.
`trunks` and `vlad` make such a model, and `describers` reads it for all other packages. `training` also
uses `engines`, `pooling` and `weights`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
