"""Pascal VOC annotation files: one XML file for each image."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from atss_jax.data import image_file
from atss_jax.data.coco.table import SIDE, Rule, Table, show
from atss_jax.files.read_ahead import map_ahead

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_LARGEST = 1e15  # as in COCO files

_CONTENT = Rule('XML whose root is <annotation>', lambda problem: problem is None)
_CORNER = Rule(
    'a finite number', lambda v: isinstance(v, float) and -_LARGEST <= v <= _LARGEST
)
_FLAG = Rule('a whole number', lambda v: isinstance(v, float) and v.is_integer())


def read(paths: Sequence[str]) -> list[Element | str]:
    """The root element of each file, or what is wrong with its content.

    Raises:
        OSError: a file cannot be read.
    """
    return [_parse(content) for content in map_ahead(image_file.file_content, paths)]


def _parse(content: bytes) -> Element | str:
    # Expat refuses entities that would grow beyond any measure, and reads no others.
    try:
        root = ElementTree.fromstring(content)
    except (ParseError, ValueError, LookupError) as error:
        return str(error)
    return root if root.tag == 'annotation' else f'<{root.tag}>'


def names_of(root: Element | str) -> set[str]:
    """The names of the objects of a file, those that are given."""
    if isinstance(root, str):
        return set()
    return {name for each in root.findall('object') if (name := _text(each, 'name'))}


def file_name(root: Element | str) -> str:
    """The name of the image that a file gives, without folders; '' if none."""
    text = '' if isinstance(root, str) else _text(root, 'filename')
    return text.replace('\\', '/').rpartition('/')[2]


def size(root: Element | str) -> tuple[int, int] | None:
    """Height and width; None if one is missing, not a whole number, or not above 0."""
    sides = []
    for key in ('height', 'width'):
        side = None if isinstance(root, str) else _number(_text(root, f'size/{key}'))
        if not isinstance(side, float) or not side.is_integer() or not SIDE.holds(int(side)):
            return None
        sides.append(int(side))
    return tuple(sides)
