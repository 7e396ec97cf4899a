"""The main job: check every derivation, train on the digits with and without biases, and show it on one page."""

from ._claims import QUICK_CLAIMS as QUICK_CLAIMS
from ._claims import claims_section as claims_section
from ._collect import EPOCHS as EPOCHS
from ._collect import NETWORKS as NETWORKS
from ._collect import BiasEffect as BiasEffect
from ._collect import PageData as PageData
from ._collect import Run as Run
from ._collect import collect as collect
from ._page import page as page
