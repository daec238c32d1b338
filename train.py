"""Trains a detector: the same as `atss train`."""

import sys

from atss_jax.commands.main import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]], 'train.py'))
