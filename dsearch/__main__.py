"""`python -m dsearch` is the same program as `dsearch`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
