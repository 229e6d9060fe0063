from .loop import Training as Training
from .loop import evaluate as evaluate
