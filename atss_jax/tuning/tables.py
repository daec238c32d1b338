"""What was tried, as text: the anchors, and the objects by size."""

import numpy as np

from atss_jax.tuning.choose import class_mean, is_common
from atss_jax.tuning.config_file import Setup
from atss_jax.tuning.fit import Fit, anchor_sides


def trials(setup: Setup) -> str:
    """A row for each choice of anchors that was tried; `*` marks the chosen one.

    An object without anchor is not learned. The overlap is the mean IoU of the anchors
    with the object that they are assigned to.
    """
    chosen, count = setup.chosen.fit, len(setup.classes)
    lines = [
        f'{setup.images} training images, {len(chosen.labels)} objects tried at '
        f'{chosen.choice.img_scale}',
        f'{"":2}{"anchors, px":<15}{"from":<6}{"no anchor":>10}{"per object":>12}'
        f'{"overlap":>9}  lowest of a class',
    ]
    for each in setup.chosen.tried:
        anchors = each.choice.anchors
        sides = '/'.join(f'{side:.0f}' for side in anchor_sides(anchors))
        level = f'P{anchors.strides[0].bit_length() - 1}'
        lowest, name = _lowest(each, setup.classes)
        mark = '*' if each is chosen else ''
        lines.append(
            f'{mark:2}{sides:<15}{level:<6}{each.unassigned:>10.1%}'
            f'{np.mean(each.positives):>12.1f}{class_mean(each, count):>9.2f}  '
            f'{lowest:.2f} {name}'
        )
    return '\n'.join(lines)


def _lowest(each: Fit, classes):
    overlaps = each.class_overlaps(len(classes))
    overlaps[~is_common(each.labels, len(classes))] = np.nan
    label = int(np.nanargmin(overlaps))
    return overlaps[label], classes[label]


def sizes(setup: Setup) -> str:
    """A row for each size of objects, with the chosen anchors: the number of objects,
    the share without anchor, anchors per object, and the share of these by level."""
    chosen = setup.chosen.fit
    strides = chosen.choice.anchors.strides
    levels = ''.join(f'{f"P{stride.bit_length() - 1}":>6}' for stride in strides)
    lines = [
        f'{"object, px":<13}{"objects":>8}{"no anchor":>11}{"per object":>12}{levels}'
    ]
    for row in chosen.size_rows():
        shares = ''.join(f'{share:>6.0%}' for share in row.levels)
        lines.append(
            f'{row.name:<13}{row.objects:>8}{row.unassigned:>11.1%}'
            f'{row.positives:>12.1f}{shares}'
        )
    return '\n'.join(lines)
