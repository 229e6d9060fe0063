"""Fine-tuning a trunk on the landmarks.

For the stage `model` with `model: finetuned`. It reads the photos of `data/splits/train.csv` and `val.csv`,
and writes `models/checkpoints/` and the event files in `runs/`. Other packages use `loop.Training`, and
`loop.evaluate` for what it made.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
