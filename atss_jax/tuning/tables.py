"""What was tried, as text: the settings, and the objects by size."""

import numpy as np

from atss_jax.tuning.choose import class_mean, is_common
from atss_jax.tuning.config_file import Setup, short_name
from atss_jax.tuning.fit import Fit, anchor_sides

_NAME_WIDTH = 11  # columns that are left for the name of a class
_TRIAL = '{:2}{:<9}{:<12}{:<4}{:>6}{:>10}{:>11}{:>8}  {}'  # a row of `trials`


def trials(setup: Setup) -> str:
    """A row for each image scale and set of anchors that was tried; `*`: chosen.

    The cost is in billions of multiply-adds per image. An object without anchor is not
    learned. The overlap is the mean IoU of the anchors with the object that they are
    assigned to.
    """
    chosen = setup.chosen.fit
    titles = (
        'image',
        'anchors, px',
        'from',
        'cost',
        'no anchor',
        'per object',
        'overlap',
    )
    lines = [
        f'{setup.images} training images; settings tried with {len(chosen.labels)} '
        'of their objects',
        _TRIAL.format('', *titles, 'lowest class'),
    ]
    for each, cost in zip(setup.chosen.tried, setup.costs, strict=True):
        anchors = each.choice.anchors
        lowest, name = _lowest(each, setup.classes)
        lines.append(
            _TRIAL.format(
                '*' if each is chosen else '',
                'x'.join(map(str, each.choice.img_scale)),
                '/'.join(f'{side:.0f}' for side in anchor_sides(anchors)),
                _level_name(anchors.strides[0]),
                f'{cost:.1f}' if cost < 100 else f'{cost:.0f}',
                f'{each.unassigned:.1%}',
                f'{np.mean(each.positives):.1f}',
                f'{class_mean(each, len(setup.classes)):.2f}',
                f'{lowest:.2f} {short_name(name, _NAME_WIDTH)}',
            )
        )
    return '\n'.join(lines)


def _lowest(each: Fit, classes):
    """The lowest overlap of a common class, and the name of the class."""
    overlaps = each.class_overlaps(len(classes))
    overlaps[~is_common(each.labels, len(classes))] = np.nan
    label = int(np.nanargmin(overlaps))
    return overlaps[label], classes[label]


def _level_name(stride):
    return f'P{stride.bit_length() - 1}'


def sizes(setup: Setup) -> str:
    """A row for each size of objects, with the chosen settings.

    It has the number of objects, the share without anchor, the mean number of anchors,
    and the share of these on each level.
    """
    chosen = setup.chosen.fit
    levels = [_level_name(stride) for stride in chosen.choice.anchors.strides]
    titles = 'object, px', 'objects', 'no anchor', 'per object'
    lines = [_size(*titles, levels)]
    for row in chosen.size_rows():
        lines.append(
            _size(
                row.name,
                str(row.objects),
                f'{row.unassigned:.1%}',
                f'{row.positives:.1f}',
                [f'{share:.0%}' for share in row.levels],
            )
        )
    return '\n'.join(lines)


def _size(name, objects, unassigned, positives, shares):
    columns = ''.join(f'{share:>6}' for share in shares)
    return f'{name:<13}{objects:>8}{unassigned:>11}{positives:>12}{columns}'
