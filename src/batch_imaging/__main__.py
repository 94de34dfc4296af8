"""`python -m batch_imaging` is the command line."""

import sys

from batch_imaging.cli import main

if __name__ == "__main__":
    sys.exit(main())
