"""`python -m jaxbias`."""

import sys

from jaxbias.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
