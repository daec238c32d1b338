"""Detects objects in images and videos: the same as `atss predict`."""

import sys

from atss_jax.commands.main import main

if __name__ == '__main__':
    sys.exit(main(['predict', *sys.argv[1:]], 'predict.py'))
