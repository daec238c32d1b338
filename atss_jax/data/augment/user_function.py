"""Functions of users as transforms: found by name, their results checked.

    def darker(image, boxes, labels, rng):
        return image // 2, boxes, labels

The config names it, as 'my_package.my_module:darker' or 'my_file.py:darker', so that
worker processes and a resumed run find the same one.
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterable

import numpy as np

from atss_jax.data.augment.objects import Objects
from atss_jax.data.records import Record

CROWD = -1
"""The label of crowd regions, in what a function gets and returns."""

FIELD = 'data.train.pipeline.after_flip'

# Importing one file may import another one in the same way.
_IMPORTING = threading.RLock()

_SLACK = 1e-3
"""Pixels that boxes may reach outside the image, to be clipped: rounding errors."""


class BadFunction(ValueError):
    """A function of the user that is not found, fails or returns what it must not."""


@dataclasses.dataclass(frozen=True)
class UserFunction:
    """Calls a function of yours on the image that is trained on, after the resize.

    It is called as `function(image, boxes, labels, rng)` and returns three values like
    the first three: `image` (H,W,3) uint8 RGB, of the same size; `boxes` (G,4) float32,
    left, top, right, bottom in pixels inside the image; `labels` (G,) int32, indices of
    classes, -1 for a crowd region. The number of boxes may change. `rng`, a
    `numpy.random.Generator`, is a function of (seed, step, row), and nothing else may
    decide what is returned.

    Attributes:
        function: 'module:function', or 'file.py:function'.
    """

    function: str

    def call(
        self,
        image: np.ndarray,
        objects: Objects,
        random: np.random.Generator,
        where: 'Where',
    ) -> tuple[np.ndarray, Objects]:
        """The image and the objects that the function makes of these.

        Raises:
            BadFunction: it fails, or returns something else than it should.
        """
        labels = np.where(objects.ignored, CROWD, objects.labels).astype(np.int32)
        function = load(self.function)
        try:
            returned = function(image.copy(), objects.boxes.copy(), labels, random)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            line = _line(error, _module(self.function))
            raise BadFunction(
                f'{self._named(where)} raised {_described(error)}{line}'
            ) from error
        problem = wrong(returned, image.shape, where.classes)
        if problem:
            raise BadFunction(f'{self._named(where)} returned {problem}')
        image, boxes, labels = returned
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        height, width = image.shape[:2]
        boxes = boxes.clip(0, np.array([width, height] * 2, np.float32))
        labels = np.asarray(labels).astype(np.int32)
        ignored = labels == CROWD
        return image, Objects(boxes, np.where(ignored, 0, labels), ignored)

    def _named(self, where):
        record = where.record
        return (
            f'{self.function} (in {FIELD}), at step '
            f'{where.step + 1} on row {where.row}, image id {record.image_id} '
            f'({record.file_name or "generated"}),'
        )


@dataclasses.dataclass(frozen=True)
class Where:
    """What a function is called on, for messages and checks.

    Attributes:
        step: from 0.
        row: of the global batch.
        record: of the row's own image.
        classes: number of classes.
    """

    step: int
    row: int
    record: Record
    classes: int


# What it returns ---------------------------------------------------------------------


def wrong(returned: object, shape: tuple[int, ...], classes: int) -> str:
    """Says what is wrong with the values that a function returned; '' if nothing.

    Args:
        returned: by the function.
        shape: of the image that it got.
        classes: number of classes.
    """
    if not isinstance(returned, tuple) or len(returned) != 3:
        count = f' of {len(returned)}' if isinstance(returned, tuple) else ''
        return (
            f'a {type(returned).__name__}{count}; expected a tuple of three: image, '
            'boxes, labels'
        )
    image, boxes, labels = returned
    return (
        _wrong_image(image, shape)
        or _wrong_boxes(boxes, shape)
        or _wrong_labels(labels, len(boxes), classes)
    )


def _wrong_image(image, shape):
    if not isinstance(image, np.ndarray):
        return f'an image that is a {type(image).__name__}; expected a NumPy array'
    if image.dtype != np.uint8:
        return f'an image of {image.dtype}; expected uint8, from 0 to 255'
    if image.shape != shape:
        return (
            f'an image of shape {image.shape}; expected {shape}, the shape that it got'
        )
    return ''


def _wrong_boxes(boxes, shape):
    if not isinstance(boxes, np.ndarray):
        return f'boxes that are a {type(boxes).__name__}; expected a NumPy array (G, 4)'
    if boxes.dtype.kind not in 'fiu':
        return f'boxes of {boxes.dtype}; expected float32'
    if boxes.size and boxes.shape[1:] != (4,):
        return f'boxes of shape {boxes.shape}; expected (G, 4)'
    boxes = boxes.reshape(-1, 4)
    height, width = shape[:2]
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        text = f'box {index}, ({x1:g}, {y1:g}, {x2:g}, {y2:g}),'
        if not np.isfinite([x1, y1, x2, y2]).all():
            return f'{text} which is not finite'
        if x2 < x1 or y2 < y1:
            return f'{text} whose right or bottom side is before its left or top side'
        if min(x1, y1) < -_SLACK or x2 > width + _SLACK or y2 > height + _SLACK:
            return (
                f'{text} which reaches outside the image of {width}x{height} (width x '
                'height); clip boxes and drop those outside'
            )
    return ''


def _wrong_labels(labels, count, classes):
    if not isinstance(labels, np.ndarray):
        return f'labels that are a {type(labels).__name__}; expected a NumPy array (G,)'
    if labels.dtype.kind not in 'iu' and labels.size:
        return f'labels of {labels.dtype}; expected int32'
    if labels.shape != (count,):
        return f'labels of shape {labels.shape} for {count} boxes; expected ({count},)'
    outside = labels[(labels < CROWD) | (labels >= classes)]
    if len(outside):
        return (
            f'the label {outside[0]}; expected 0 to {classes - 1}, or {CROWD} for a '
            'crowd region'
        )
    return ''


# Names -------------------------------------------------------------------------------


@functools.cache
def load(name: str) -> Callable:
    """The function of this name.

    Args:
        name: 'module:function', or 'file.py:function'.

    Raises:
        BadFunction: there is none, or its module cannot be imported.
    """
    module, attribute = _module(name), name.rpartition(':')[2]
    function = getattr(module, attribute, None)
    if not callable(function):
        names = sorted(
            other
            for other, value in vars(module).items()
            if inspect.isfunction(value) and not other.startswith('_')
        )
        raise BadFunction(
            f'{name}: there is no function {attribute!r} in it, but {names}'
        )
    return function


def _module(name):
    """The module of a function, by the function's name."""
    place = name.rpartition(':')[0]
    is_file = place.endswith('.py')
    if is_file and not pathlib.Path(place).expanduser().is_file():
        raise BadFunction(
            f'{name}: no file {pathlib.Path(place).expanduser().absolute()}'
        )
    try:
        return _from_file(place) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        hint = (
            '; a file that is no installed module is named by its path, '
            "'my_file.py:function'"
            if isinstance(error, ModuleNotFoundError) and not is_file
            else ''
        )
        raise BadFunction(
            f'{name}: importing {place} raised {_described(error)}{hint}'
        ) from error


def _described(error):
    """Type and message of an exception, which may have none."""
    return f'{type(error).__name__}: {error}'.removesuffix(': ')


def _line(error, module):
    """The line of a user's module in which an error arose, as ' in FILE, line N'.

    Workers send the message alone, without the traceback.
    """
    file = getattr(module, '__file__', None)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    return f' in {file}, line {lines[-1]}' if lines else ''


def _from_file(path):
    """The module in a Python file, by a name of its own."""
    file = pathlib.Path(path).expanduser().resolve()
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:12]
    name = f'_atss_jax_user_{file.stem}_{digest}'
    with _IMPORTING:  # several threads load: the others would see half of a module
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # before it runs, as Python does it
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]


def digest(name: str) -> str:
    """SHA-256 of the file that the function of this name is in.

    It does not cover other modules that the file imports.

    Raises:
        BadFunction: as `load`, or there is no file.
    """
    file = getattr(_module(name), '__file__', None)
    if file is None or not pathlib.Path(file).is_file():
        raise BadFunction(
            f'{name}: its module is no Python file, so a resumed run may differ'
        )
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()


def digests(transforms: Iterable[object]) -> dict[str, str]:
    """`digest` by name of the functions among transforms; each of them is loaded.

    Raises:
        BadFunction: as `load` and `digest`.
    """
    by_name = {}
    for transform in transforms:
        if isinstance(transform, UserFunction):
            try:
                load(transform.function)
                by_name[transform.function] = digest(transform.function)
            except BadFunction as error:
                raise BadFunction(f'config.{FIELD}: {error}') from error
    return by_name


def _file_of(function):
    """The file with a function at its top, such as a config, or None.

    A config is not among the imported modules.
    """
    values = getattr(function, '__globals__', {})
    is_at_top = values.get(getattr(function, '__name__', None)) is function
    return values.get('__file__') if is_at_top else None


def name_of(function: Callable) -> str:
    """The name that `load` finds a function by.

    Raises:
        BadFunction: it is not at the top of a module or file.
    """
    module = sys.modules.get(getattr(function, '__module__', None))
    name = getattr(function, '__qualname__', '')
    if module is None and (file := _file_of(function)):
        return f'{file}:{name}'
    if module is None or not name.isidentifier():
        raise BadFunction(
            f'{function!r} cannot be named in a config, which worker processes and a '
            'resumed run need: use a function that is defined at the top of a module '
            'or of a .py file, neither a lambda nor an object'
        )
    if module.__name__ != '__main__':
        return f'{module.__name__}:{name}'
    file = getattr(module, '__file__', None)
    if file is None:
        raise BadFunction(
            f'{function!r} is in no file, which worker processes and a resumed run '
            "need: write it to a .py file and name it as 'my_file.py:function'"
        )
    return f'{file}:{name}'
