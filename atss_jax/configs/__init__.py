"""The shipped configs: `from atss_jax.configs import atss_r50_1x`.

In an installed package they lie in this folder. In a checkout they lie in `configs/`
next to the package, and this file alone lies here.
"""

import pathlib

__path__.append(str(pathlib.Path(__file__).parents[2] / 'configs'))
