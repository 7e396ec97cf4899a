"""Claims about biases as executable statements: five articles' experiments, their errata, and published facts.

`jaxbias.claims.run()` runs them all, `run(["A4.7", "E6"])` some. Importing this package imports no plotting library.
"""

from . import article0 as article0
from . import article1 as article1
from . import article1_init as article1_init
from . import article2 as article2
from . import article3 as article3
from . import article4 as article4
from . import errata as errata
from . import errata_training as errata_training
from . import facts as facts
from . import facts_random as facts_random
from . import layers as layers
from . import library as library
from . import overview as overview
from . import statistics as statistics
from ._claim import CONDITIONAL as CONDITIONAL
from ._claim import HOLDS as HOLDS
from ._claim import REFUTED as REFUTED
from ._claim import REGISTRY as REGISTRY
from ._claim import Claim as Claim
from ._claim import claim as claim
from ._conditions import near as near
from ._html import QUICK as QUICK
from ._html import section as section
from ._run import Finding as Finding
from ._run import Result as Result
from ._run import as_records as as_records
from ._run import run as run
from ._run import run_claim as run_claim
from ._run import select as select
from ._run import to_json as to_json
