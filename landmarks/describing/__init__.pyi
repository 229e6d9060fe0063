from .describers import Describer as Describer
from .trunks import Trunk as Trunk
from .trunks import pretrained as pretrained
from .vlad import Vlad as Vlad
