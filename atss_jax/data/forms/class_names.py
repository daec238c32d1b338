"""Files that name the classes of a data set, a line each, and the names themselves."""

import os
from collections.abc import Container, Sequence

from atss_jax.data.coco.table import TEXT, show

_LARGEST_COUNT = 30_000  # ImageNet has 21,841, data sets for detection 13,204 or fewer


def read_file(path: str) -> tuple[str, ...]:
    """The names in a file, in its order.

    Raises:
        ValueError: it is not text, a line is blank, or there is none.
    """
    with open(path, 'rb') as file:
        content = file.read()
    try:
        lines = content.decode('utf-8-sig').rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path}: expected text in UTF-8 with the name of a class in each line: '
            f'{error}'
        ) from error
    names = tuple(line.strip() for line in lines)
    for number, name in enumerate(names, 1):
        if not TEXT.holds(name):
            raise ValueError(
                f'{path}:{number}: expected the name of a class, {TEXT.expected}, '
                f'found {show(name)}'
            )
    if not names:
        raise ValueError(f'{path}: expected the name of a class in each line; empty')
    check_count(path, len(names))
    return names


def find_file(folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The first file with one of the names in the folders; None if there is none.

    Raises:
        ValueError: two such files name other classes, or in another order.
    """
    paths = [os.path.join(folder, name) for folder in folders for name in names]
    files = [path for path in dict.fromkeys(paths) if os.path.isfile(path)]
    contents = {path: read_file(path) for path in files}
    for path in files[1:]:
        if contents[path] != contents[files[0]]:
            raise ValueError(
                f'{files[0]} and {path} name the classes in different ways; delete '
                'the wrong one'
            )
    return files[0] if files else None


def check_unique(
    owner: str, names: Sequence[str], classes: Container[str] | None
) -> None:
    """Raises ValueError if a name occurs twice.

    Args:
        owner: file with the names, for the message.
        names: of all classes.
        classes: those that must be unique; None: all.
    """
    first = {}
    for index, name in enumerate(names):
        earlier = first.setdefault(name, index)
        if earlier != index and (classes is None or name in classes):
            raise ValueError(
                f'{owner}: the classes {earlier} and {index} are both named '
                f'{show(name)}; give one of them another name'
            )


def check_count(owner: str, count: int) -> None:
    """Raises ValueError if there are more classes than any detector can learn.

    Args:
        owner: file with the names or their number, for the message.
        count: number of classes.
    """
    if count > _LARGEST_COUNT:
        raise ValueError(
            f'{owner}: {count:,} classes, but at most {_LARGEST_COUNT:,} are read. Are '
            'the file and its number of classes (nc) right?'
        )
