"""What checks this library: every derivation against autodiff, and mistakes planted in right rules.

`selfcheck.check_all()` gives one `Check` for each layer and loss, as `jaxbias check` prints them.
`selfcheck.planted.run()` says what the checker makes of each planted mistake, as `jaxbias verify --self-test` does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
