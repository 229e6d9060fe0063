from .measures import average_precision as average_precision
from .measures import score as score
