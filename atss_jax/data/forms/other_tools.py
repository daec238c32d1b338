"""Annotations in the own forms of other programs, which are recognized but not read.

Nearly all of these programs also export one of the forms that are read.
"""

import os
import re
from collections.abc import Iterator

from atss_jax.data.forms.image_files import is_meant

_OTHER_EXPORT = 'In the program that wrote it choose COCO, YOLO or Pascal VOC instead'
_ADVICE = {
    'Label Studio': (
        'In Label Studio choose Export, and there COCO, YOLO or Pascal VOC XML'
    ),
    'CVAT for images': (
        'In CVAT choose Export dataset, and there COCO 1.0, Pascal VOC 1.1 or '
        'Ultralytics YOLO Detection 1.0'
    ),
    'labelme': (
        "Convert it with labelme's own examples/bbox_detection/labelme2voc.py, which "
        'writes Pascal VOC'
    ),
    'VGG Image Annotator (VIA)': (
        'In VIA choose Annotation, and there Export Annotations (COCO format)'
    ),
    'Open Images (CSV)': (
        'Write a COCO file from it, for example with FiftyOne, which loads Open Images '
        'and exports COCO'
    ),
    'Create ML': _OTHER_EXPORT,
    'CSV, as for RetinaNet or from Roboflow': _OTHER_EXPORT,
    'text, as for Keras YOLOv3 or YOLOv4 PyTorch': _OTHER_EXPORT,
    'TFRecord, as for TensorFlow or from Roboflow': _OTHER_EXPORT,
}
"""By the name of a program or of its form, what to do instead."""

_IMAGE = rb'"?[^,\n]+\.(jpe?g|png|bmp|tiff?|webp)"?'
_KINDS = (
    ('Label Studio', ('.json', '.csv'), (rb'"(rectangle|polygon|brush)labels"',)),
    ('CVAT for images', ('.xml',), (rb'<annotations>', rb'<(meta|image)[\s>]')),
    ('labelme', ('.json',), (rb'"shapes"\s*:', rb'"imagePath"\s*:')),
    ('VGG Image Annotator (VIA)', ('.json',), (rb'"regions"', rb'"shape_attributes"')),
    ('VGG Image Annotator (VIA)', ('.csv',), (rb'\A.*region_shape_attributes',)),
    ('Open Images (CSV)', ('.csv',), (rb'\A\W*ImageID,.*LabelName,.*XMin',)),
    ('Create ML', ('.json',), (rb'"coordinates"\s*:\s*\{\s*"(x|y|width|height)"',)),
    (
        'CSV, as for RetinaNet or from Roboflow',
        ('.csv',),
        (rb'(?i)\A(.*\bxmin\b.*\bymax\b|' + _IMAGE + rb'((,\d+(\.\d*)?){4},|,,,,,))',),
    ),
    (
        'text, as for Keras YOLOv3 or YOLOv4 PyTorch',
        ('.txt',),
        (rb'(?i)\A' + _IMAGE + rb' \d+,\d+,\d+,\d+,\d+\s',),
    ),
    (
        'TFRecord, as for TensorFlow or from Roboflow',
        ('.tfrecord', '.tfrecords', '.record'),
        (rb'image/object/bbox/',),
    ),
)
"""Names as in `_ADVICE`, how the files end, and what all must match in them."""

_LOOKED_AT = 20  # files in each folder
_BEGINNING = 2**20  # bytes of a file that are looked at


def explain(path: str) -> str:
    """What to do about annotations of another program; '' if none are recognized.

    Args:
        path: a file, or a folder in which, and in whose folders, files are looked at.
    """
    for file in _files(path):
        if name := _kind(file):
            return (
                f'{file} has annotations in a form that is not read: {name}. '
                f'{_ADVICE[name]}'
            )
    return ''


def _files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    with os.scandir(path) as entries:
        folders = sorted(e.path for e in entries if is_meant(e) and e.is_dir())
    for folder in (path, *folders[:_LOOKED_AT]):
        yield from _first_files(folder)


def _first_files(folder):
    """The first files of each ending in a folder."""
    try:
        with os.scandir(folder) as entries:
            files = sorted(e.path for e in entries if is_meant(e) and e.is_file())
    except PermissionError:
        return []
    endings = dict.fromkeys(ending for _, endings, _ in _KINDS for ending in endings)
    return [
        file
        for ending in endings
        for file in [f for f in files if f.lower().endswith(ending)][:_LOOKED_AT]
    ]


def _kind(file):
    """The program and form of a file, as in `_ADVICE`; None if not recognized."""
    kinds = [kind for kind in _KINDS if file.lower().endswith(kind[1])]
    if not kinds:
        return None
    try:
        with open(file, 'rb') as opened:
            content = opened.read(_BEGINNING)
    except PermissionError:
        return None
    for name, _, patterns in kinds:
        if all(re.search(pattern, content) for pattern in patterns):
            return name
    return None
