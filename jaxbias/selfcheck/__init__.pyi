from . import derivations as derivations
from . import planted as planted
