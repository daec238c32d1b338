"""Says why there is no file of the name that an annotation file gives to an image."""

import os
import pathlib
import urllib.parse


def explain(path: str, folder: str) -> str:
    """A sentence about an image file that does not exist; '' without an explanation.

    Args:
        path: `folder` joined with the `file_name` of the annotation file.
        folder: `img_prefix`.
    """
    name = path.removeprefix(folder).lstrip('/') if folder else path
    is_outside = os.path.isabs(path) and not path.startswith(os.path.abspath(folder))
    scheme, is_url, rest = name.partition('://')
    if is_url and scheme.isalnum():
        rest = rest.partition('?')[0]
        return (
            '. Its file_name is a URL, but images are read from the folder img_prefix: '
            'download them there, and give file_name relative to it'
            + _but(folder, rest.rpartition('/')[2])
        )
    if '%' in name and (decoded := urllib.parse.unquote(name)) != name:
        return (
            '. Its file_name is percent-encoded, but it must be the name of a file in '
            f'img_prefix, {decoded!r}' + _but(folder, decoded)
        )
    if is_outside or name[1:3] == ':\\':
        return (
            '. Its file_name is an absolute path; give it relative to img_prefix'
            + _but(folder, name.replace('\\', '/').rpartition('/')[2])
        )
    parts = pathlib.PurePath(name).parts
    for start in range(1, len(parts)):
        shorter = _but(folder, str(pathlib.PurePath(*parts[start:])))
        if shorter:
            return f'. file_name must be relative to img_prefix{shorter}'
    return ''


def _but(folder, name):
    """Names the file in the folder if it exists."""
    path = os.path.join(folder, urllib.parse.unquote(name))
    return f'; there is {path}' if name and os.path.isfile(path) else ''
