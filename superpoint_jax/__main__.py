"""`python -m superpoint_jax`: the same as the command `superpoint-jax`."""

import sys

from superpoint_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
