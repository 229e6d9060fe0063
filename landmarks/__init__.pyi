from . import asking as asking
from . import describing as describing
from . import photos as photos
from . import reranking as reranking
from . import scoring as scoring
from . import searching as searching
from . import training as training
from .errors import InputError as InputError

__version__: str
