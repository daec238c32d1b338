"""YOLO label files: one for each image, an object in each line."""

import os
from collections.abc import Sequence

from atss_jax.data import image_file
from atss_jax.data.coco.table import SKIP, Rule, Table
from atss_jax.data.forms import image_files
from atss_jax.files.read_ahead import map_ahead

_TOLERANCE = 0.001  # programs round, and some points lie on the edge of the image
_FRACTIONS = 'numbers from 0 to 1, fractions of the width and height of the image'
_SHAPES = (
    'class x y width height, or class x1 y1 x2 y2 x3 y3 ... of a polygon (six values '
    'are a detection with its score or track, not an annotation)'
)


def label_path(image: str, folder: str) -> str:
    """Path of the label file of an image; it need not exist.

    The last folder `images` of the path, below `folder`, is replaced by `labels`. If
    there is none, the label file lies next to the image.

    Differs from Ultralytics: `Images` and `Labels` are folders of that kind, too, where
    no folder is written as it should be.

    Source: ultralytics.data.utils.img2label_paths.
    """
    inside = image_files.inside(image, folder)
    base = os.sep if os.path.isabs(inside) else folder
    names = inside.lstrip(os.sep).split(os.sep)
    places = [i for i, name in enumerate(names[:-1]) if name.lower() == 'images']
    places = [i for i in places if names[i] == 'images'] or places
    if places:
        above = os.path.join(base, *names[: places[-1]])
        labels = image_files.in_any_case(os.path.join(above, 'labels'))
        if names[places[-1]] == 'images' or os.path.isdir(labels):
            names[places[-1]] = os.path.basename(labels)
    stem = os.path.splitext(os.path.join(base, *names))[0]
    return image_file.locate('', f'{stem}.txt')


def read_lines(
    owner: str,
    labels: Sequence[tuple[int, str, str]],
    class_count: int,
    keypoints: int,
    on_error: str,
) -> Table:
    """Reads and checks label files; repeated lines of a file are left out.

    The rows of the table have `image_id`, `class`, and `box`: x, y, width, height as
    fractions of the image.

    Args:
        owner: file or folder of the data set, for messages.
        labels: for each label file the image id, its path, and its name in messages.
        class_count: number of classes.
        keypoints: number of values of the keypoints that follow each box.
        on_error: 'raise' or 'skip', see `Table`.

    Raises:
        ValueError: a line is malformed and `on_error` is 'raise'; or the classes seem
            to be counted from 1.
        OSError: a file cannot be read.
    """
    contents = map_ahead(image_file.file_content, [path for _, path, _ in labels])
    rows = []
    for (image_id, _, name), content in zip(labels, contents, strict=True):
        text = content.decode('utf-8-sig', errors='replace')
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                row = _row(line.split(), keypoints)
                rows.append({'image_id': image_id, 'at': f'{name}:{number}', **row})
    table = Table(
        owner, 'lines of label files', rows, on_error, SKIP, lambda i: rows[i]['at']
    )
    shape = f'class x y width height and {keypoints} values of keypoints (kpt_shape)'
    table.require('line', Rule(shape if keypoints else _SHAPES, lambda line: not line))
    _check_from_0(owner, table.rows, class_count)
    table.require('class', _class_rule(table.column('class'), class_count))
    table.require('box', _box_rule(table.column('box')))
    table.leave_out(_repeated(table.rows), 'a line that the file has twice')
    return table


def _class_rule(classes, class_count):
    """The rule for classes; it says to which number they go if there are too few."""
    expected = f'a whole number from 0 to {class_count - 1}, one of the classes'
    largest = max((n for n in classes if type(n) is int), default=0)
    if largest >= class_count:
        expected += f' ({class_count} have a name, but the labels go to {largest})'
    return Rule(expected, range(class_count).__contains__)


def _box_rule(boxes):
    """The rule for boxes; it says what they probably are if most are malformed.

    Args:
        boxes: as `_box` gives them.
    """
    expected = _FRACTIONS
    large = [box for box in boxes if isinstance(box, float) and box > 1]
    texts = [box for box in boxes if isinstance(box, str)]
    if len(large) > len(boxes) / 2:
        expected += (
            f' (most are larger, such as {large[0]:g}: these look like pixels, to be '
            'divided by the width and the height)'
        )
    elif any(',' in text for text in texts):
        expected += ' (with a decimal point, not a comma)'
    return Rule(expected, lambda box: isinstance(box, tuple))


def _check_from_0(owner, rows, class_count):
    """Raises ValueError if the classes seem to be counted from 1.

    It does so whatever `on_error` is: if only the objects of the last class were left
    out, those of all others would be trained as of the class after theirs.
    """
    classes = [row['class'] for row in rows]
    are_from_1 = all(type(n) is int and 1 <= n <= class_count for n in classes)
    if are_from_1 and class_count in classes:
        place = rows[classes.index(class_count)]['at']
        raise ValueError(
            f'{owner}: the classes of all {len(rows)} objects are from 1 to '
            f'{class_count} ({class_count} in {place}), but YOLO counts from 0 to '
            f'{class_count - 1}: the program that wrote the label files probably '
            'counted from 1. Subtract 1 from the first number of each line; or, if 0 '
            'is a class without objects here, add the name that is missing'
        )


def is_label_file(path: str) -> bool:
    """Whether a file is a text whose first line looks like one of a label file."""
    if image_files.suffix(path) != '.txt' or not os.path.isfile(path):
        return False
    with open(path, 'rb') as file:
        start = file.read(256).decode('utf-8-sig', errors='replace').strip()
    # Decimal commas are malformed, and reading says in which line.
    values = start.split('\n')[0].replace(',', '.').split()
    numbers = [_number(value) for value in values]
    return len(numbers) >= 5 and not any(
        isinstance(value, str) for value in numbers[:4]
    )


def without_image(
    owner: str, labels: Sequence[str], folder: str, on_error: str
) -> None:
    """Refuses label files next to those of images that belong to no image.

    Args:
        owner: file or folder of the data set, for messages.
        labels: paths of the label files of all images.
        folder: that paths in messages are relative to.
        on_error: 'raise' or 'skip', see `Table`.

    Raises:
        ValueError: there is one and `on_error` is 'raise'.
    """
    known = set(labels)
    rows = []
    for place in sorted({os.path.dirname(label) for label in labels}):
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        for path in (os.path.join(place, name) for name in names):
            if path not in known and is_label_file(path):
                rows.append({'at': image_files.inside(path, folder)})
    table = Table(
        owner,
        'label files without image',
        rows,
        on_error,
        SKIP,
        lambda i: rows[i]['at'],
    )
    table.require(
        'image', Rule('a file of the same name, in images/ or next to it', bool)
    )


def _repeated(rows):
    """Positions of lines that have the class and the box of an earlier one."""
    earlier, repeated = set(), []
    for index, row in enumerate(rows):
        content = row['image_id'], row['class'], row['box']
        if content in earlier:
            repeated.append(index)
        earlier.add(content)
    return repeated


def _row(values, keypoints):
    """What a line says; where it is wrong, the text to show in a message."""
    coordinates = values[1:]
    if keypoints:
        fits, coordinates = len(coordinates) == 4 + keypoints, coordinates[:4]
    else:
        fits = len(coordinates) == 4 or (
            len(coordinates) >= 6 and len(coordinates) % 2 == 0
        )
    if not fits:
        return {'line': ' '.join(values)}
    class_ = _number(values[0])
    if isinstance(class_, float) and class_.is_integer():
        class_ = int(class_)
    return {'line': '', 'class': class_, 'box': _box(coordinates)}


def _box(coordinates):
    """x, y, width, height; the first coordinate that cannot be one."""
    numbers = [_number(value) for value in coordinates]
    for number in numbers:
        if isinstance(number, str) or not -_TOLERANCE <= number <= 1 + _TOLERANCE:
            return number
    if len(numbers) == 4:
        center_x, center_y, width, height = numbers
        return center_x - width / 2, center_y - height / 2, width, height
    left, top = min(numbers[::2]), min(numbers[1::2])
    return left, top, max(numbers[::2]) - left, max(numbers[1::2]) - top


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text
