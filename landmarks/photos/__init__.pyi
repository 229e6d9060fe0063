from .catalog import Photo as Photo
from .catalog import read_photos as read_photos
from .images import Crop as Crop
from .images import read as read
