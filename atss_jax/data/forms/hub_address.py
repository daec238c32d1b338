"""Addresses of data sets on the Hugging Face Hub, and their files on this machine."""

import dataclasses
import functools
import re
import urllib.parse
from types import ModuleType

from atss_jax.data.forms.objects_column import BOX_FORMATS, RELATIVE

SCHEME = 'hf://'
_FORMAT = f'{SCHEME}OWNER/NAME, with @REVISION, /CONFIG and ?bbox=FORMAT after it'
_ADDRESS = re.compile(r'(?:datasets/)?([^/@]+/[^/@]+)(?:@([^/]+))?(?:/([^/]+))?/?')


@dataclasses.dataclass(frozen=True)
class Address:
    """A data set that `hf://...` stands for.

    Attributes:
        text: as it was given.
        name: OWNER/NAME, or the path of a local folder or file.
        is_local: whether it is such a path.
        revision: branch, tag or commit; None: the newest.
        config: name of the configuration (the subset), or a folder; None: the only one.
        box_format: what the numbers of a box are, as for `objects_column.annotations`.
    """

    text: str
    name: str
    is_local: bool
    revision: str | None = None
    config: str | None = None
    box_format: str = 'xywh'


def parse(address: str) -> Address:
    """What an address that begins with `hf://` stands for.

    `hf:///FOLDER` and `hf://./FOLDER` are local folders.

    Raises:
        ValueError: it has another form.
    """
    name, _, query = address.removeprefix(SCHEME).partition('?')
    box_format = _box_format(address, query)
    if name.startswith(('/', './', '../', '~')):
        return Address(address, name, is_local=True, box_format=box_format)
    match = _ADDRESS.fullmatch(name)
    if match is None:
        raise ValueError(f'path = {address!r}: expected {_FORMAT} if need be')
    name, revision, config = match.groups()
    revision = revision and urllib.parse.unquote(revision)
    return Address(address, name, False, revision, config, box_format)


def _box_format(address, query):
    options = urllib.parse.parse_qs(query, keep_blank_values=True)
    values = options.pop('bbox', ['xywh'])
    known = [*BOX_FORMATS, *(RELATIVE + name for name in BOX_FORMATS)]
    if options or len(values) != 1 or values[0] not in known:
        raise ValueError(
            f'path = {address!r}: after ? expected bbox= and one of {", ".join(known)}'
        )
    return values[0]


def library() -> ModuleType:
    """The module `datasets`, imported now.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            'data sets on the Hugging Face Hub need more libraries: '
            f"pip install 'atss-jax[hf]' ({error})"
        ) from error
    return datasets


def arrow_files(address: Address) -> dict[str, list[str]]:
    """Downloads a data set, unless it is in the cache of `datasets`.

    Returns:
        The Arrow files of each split.

    Raises:
        FileNotFoundError: there is no such data set, or it cannot be reached.
        ValueError: it cannot be loaded; `datasets` is not installed.
        ConnectionError: the download failed.
    """
    datasets = library()
    try:
        splits = _load(datasets, address)
    except (ValueError, OSError, RuntimeError) as error:
        kind = type(error) if isinstance(error, ConnectionError) else ValueError
        if isinstance(error, FileNotFoundError):
            kind = FileNotFoundError
        raise kind(f'path = {address.text!r}: {error}{_advice(error)}') from error
    return {
        split: [file['filename'] for file in rows.cache_files]
        for split, rows in splits.items()
    }


def _load(datasets, address):
    """The rows of each split; a configuration is declared, or a folder of this name."""
    load = functools.partial(
        datasets.load_dataset,
        address.name,
        revision=address.revision,
        keep_in_memory=False,  # whatever an environment variable of the library says
    )
    try:
        return load(address.config)
    except ValueError as error:
        if f"BuilderConfig '{address.config}' not found" not in str(error):
            raise
        # The Hub's own Parquet copies declare none.
        return load(data_dir=address.config)


def _advice(error):
    """The way out of errors whose messages do not say it in our words."""
    if 'scripts are no longer supported' in str(error):
        return (
            '. The Hub has most of these data sets as Parquet files, too: write '
            'hf://OWNER/NAME@refs%2Fconvert%2Fparquet/CONFIG'
        )
    if 'Config name is missing' in str(error):
        return '\nAdd its name to the address: hf://OWNER/NAME/CONFIG'
    return ''
