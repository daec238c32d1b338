"""Files `metadata.jsonl`, which describe the images in their folder line by line."""

import json
import os
import pathlib

from atss_jax.data.coco.table import show
from atss_jax.data.forms.objects_column import ImageRows


def read(folder: str, name: str) -> ImageRows:
    """The rows of a file; lines that are not JSON objects are listed as problems.

    Args:
        folder: of the data set.
        name: of the file, relative to `folder`.

    Raises:
        ValueError: the file is not UTF-8.
        OSError: it cannot be read.
    """
    path = pathlib.Path(folder, name)
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not a text file in UTF-8 ({error})') from error
    rows, problems, columns = [], {}, {}
    # Not splitlines(): JSON texts may contain other line separators of Unicode.
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        row = {}
        try:
            row = json.loads(line)
            if type(row) is not dict:
                problems[len(rows)] = f'must be an object, found {show(row)}'
        except (ValueError, RecursionError) as error:
            problems[len(rows)] = f'not JSON ({error})'
        row = row if type(row) is dict else {}
        columns |= dict.fromkeys(row)
        if type(row.get('file_name')) is str:
            row['file_name'] = os.path.join(os.path.dirname(name), row['file_name'])
        rows.append({**row, 'place': f'line {number}'})
    return ImageRows(str(path), rows, tuple(columns), problems)
