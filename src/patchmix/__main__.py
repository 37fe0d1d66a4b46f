"""`python -m patchmix` is the command `patchmix`."""

import sys

from patchmix.cli import main

if __name__ == "__main__":
    sys.exit(main())
