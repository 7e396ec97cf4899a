"""What checks this library: every derivation against autodiff, and mistakes planted in right rules.

from jaxbias import selfcheck

selfcheck.check_all()            # one `Check` for each layer and loss; `jaxbias check` prints them
selfcheck.planted.run()          # what the checker says of each planted mistake; `jaxbias verify --self-test`
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
