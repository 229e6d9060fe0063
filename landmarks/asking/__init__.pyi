from .questions import Answer as Answer
from .questions import Index as Index
