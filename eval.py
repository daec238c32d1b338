"""Scores a run or a file of results: the same as `atss eval`."""

import sys

from atss_jax.commands.main import main

if __name__ == '__main__':
    sys.exit(main(['eval', *sys.argv[1:]], 'eval.py'))
