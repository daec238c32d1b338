"""`python -m atss_jax COMMAND`: the same as `atss COMMAND`."""

import sys

from atss_jax.commands.main import main

if __name__ == '__main__':
    sys.exit(main())
