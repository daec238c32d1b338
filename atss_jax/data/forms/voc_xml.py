"""Pascal VOC annotation files: one XML file for each image."""

import dataclasses
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from typing import Any

from atss_jax.data import image_file
from atss_jax.data.coco.table import SIDE
from atss_jax.files.read_ahead import map_ahead

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


@dataclasses.dataclass(frozen=True)
class VocFile:
    """What a file says.

    Attributes:
        image_name: name of the image, without folders; '' if it is not given.
        size: height, width of the image; None if they are missing or cannot be those of
            an image. Many programs write 0 where they did not open the image.
        objects: for each `name`, `difficult`, `bndbox` (true if there is one) and
            `CORNERS`; what is missing is left out. Numbers are float, and text where
            they are none.
        problem: why the content cannot be used; None if it can.
    """

    image_name: str = ''
    size: tuple[int, int] | None = None
    objects: Sequence[dict[str, Any]] = ()
    problem: str | None = None


def read(paths: Sequence[str]) -> Iterator[VocFile]:
    """Reads the files; their values are not checked.

    Raises:
        OSError: a file cannot be read.
    """
    for content in map_ahead(image_file.file_content, paths):
        yield _parse(content)


def _parse(content):
    try:
        # expat refuses entities that grow beyond measure, and reads no other files.
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return VocFile(problem=str(error))
    if root.tag != 'annotation':
        return VocFile(problem=f'<{root.tag}>')
    image_name = (_text(root, 'filename') or '').replace('\\', '/').rpartition('/')[2]
    return VocFile(image_name, _size(root), list(map(_object, root.findall('object'))))


def _size(root):
    sides = [_number(_text(root, f'size/{side}')) for side in ('height', 'width')]
    if not all(isinstance(side, float) and side.is_integer() for side in sides):
        return None
    height, width = map(int, sides)
    return (height, width) if SIDE.holds(height) and SIDE.holds(width) else None


def _object(element):
    """A row. Parts of the object (the head of a person) have boxes too: not read."""
    row = {
        'name': _text(element, 'name'),
        'difficult': _number(_text(element, 'difficult') or '0'),
        'bndbox': True if element.find('bndbox') is not None else None,
        **{key: _number(_text(element, f'bndbox/{key}')) for key in CORNERS},
    }
    return {key: value for key, value in row.items() if value is not None}


def _text(element, path):
    """The text of an element below; None if there is none or it is blank."""
    return (element.findtext(path) or '').strip() or None


def _number(text):
    """A float; the text if it is no number."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
