from .features import Store as Store
from .rankings import Block as Block
from .rankings import Rankings as Rankings
from .search import top_k as top_k
