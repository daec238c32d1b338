"""Weights by path, by name or by address.

`mmdet://NAME` (or NAME alone, where no file has it) is a model of the model zoo;
`https://...` and `hf://OWNER/REPOSITORY[@REVISION][/FILE]` are any weights.
"""

import dataclasses
import difflib
import os
import re

from atss_jax.data.coco.annotation_file import COCO_CLASSES
from atss_jax.files.cached import cached_file, name_in, place_of
from atss_jax.weights import model_zoo
from atss_jax.weights.mmdet_checkpoint import SUFFIXES, is_weights_file

_HUB = 'hf://'
_FORMS = f'{model_zoo.SCHEME}NAME, https://... or {_HUB}OWNER/REPOSITORY[/FILE]'


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that a user named; nothing is downloaded before `fetch`.

    Attributes:
        source: path, or address.
        model: the model of the zoo that they are, if they are one.
    """

    source: str
    model: model_zoo.Model | None = None

    @property
    def config(self) -> str | None:
        """Name or path of the config of the model; None: unknown."""
        return None if self.model is None else self.model.config

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels; None: unknown."""
        if self.model is None:
            return None
        classes = self.model.classes
        return COCO_CLASSES if classes == 'COCO' else tuple(classes)

    @property
    def is_file(self) -> bool:
        """Whether this is a file, or named like one, rather than a workdir."""
        is_remote = self.model is not None or is_address(self.source)
        return is_remote or is_weights_file(self.source)

    def check(self) -> None:
        """Checks all that is known before a download.

        Raises:
            ValueError: the address is of another form, is that of no file of weights,
                or needs a package that is not installed.
        """
        if self.model is not None or not is_address(self.source):
            return
        if not self.source.startswith(_HUB):
            _check_suffix(self.source, name_in(self.source))
            return
        _, _, file = _parts_of_hub(self.source)
        if file is not None:
            _check_suffix(self.source, file)
        _import_hub(self.source)

    def fetch(self) -> str:
        """The local path; the file is downloaded if it is not in the cache.

        Raises:
            ValueError: what was downloaded has another hash, or is no file of weights.
            ConnectionError: the download failed; the message says which addresses to
                fetch and where to put the file.
        """
        self.check()
        if self.model is not None:
            return os.fspath(self.model.fetch())
        if self.source.startswith(_HUB):
            return _from_hub(self.source)
        if is_address(self.source):
            return os.fspath(cached_file([self.source], place_of(self.source)))
        return self.source


def is_address(source: str | os.PathLike) -> bool:
    """Whether weights are given by an address rather than a path or a bare name."""
    return '://' in os.fspath(source)


def locate(source: str | os.PathLike) -> Weights:
    """The weights that a path, a name or an address stands for.

    Args:
        source: a path; the name of a model of the zoo, unless there is a file or folder
            of this name; or an address (see above).

    Raises:
        ValueError: there is no model of this name, or the address is of another form.
    """
    text = os.path.expanduser(os.fspath(source))
    if text.startswith(model_zoo.SCHEME):
        return Weights(text, model_zoo.find(text))
    if not is_address(text):
        is_name = not os.path.exists(text) and text in model_zoo.models()
        return Weights(text, model_zoo.find(text) if is_name else None)
    if not text.startswith(('http://', 'https://', _HUB)):
        raise ValueError(f'{text}: expected a path, {_FORMS}')
    models = model_zoo.models().values()
    return Weights(text, next((x for x in models if text in x.addresses), None))


def similar_model(source: str | os.PathLike) -> str:
    """`; did you mean the model 'x'?` for a name that nothing was found at, or ''."""
    text = os.fspath(source)
    names = model_zoo.models()
    close = difflib.get_close_matches(text, names, n=1)
    return f"; did you mean the model '{close[0]}'?" if close else ''


def _check_suffix(source, name):
    if not is_weights_file(name):
        raise ValueError(
            f'{source}: expected a file of weights, {", ".join(SUFFIXES)}; its name is '
            f'{name!r}'
        )


# Hugging Face ------------------------------------------------------------------------


def _parts_of_hub(source: str) -> tuple[str, str | None, str | None]:
    """Repository, revision and file of `hf://...`."""
    match = re.fullmatch(
        rf'{_HUB}([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?', source.rstrip('/')
    )
    if match is None:
        raise ValueError(
            f'{source}: expected {_HUB}OWNER/REPOSITORY, with @REVISION and /FILE '
            'after it if need be'
        )
    return match.groups()


def _from_hub(source: str) -> str:
    """The local file of `hf://...`, in the cache of huggingface_hub."""
    repository, revision, file = _parts_of_hub(source)
    hub = _import_hub(source)
    # Errors of the network are OSErrors with requests, which huggingface_hub used
    # before 1.0, but not with httpx.
    errors = (OSError, *hub.errors.HfHubHTTPError.__bases__)
    try:
        if file is None:
            files = hub.list_repo_files(repository, revision=revision)
            file = _only_weights(source, files)
        return hub.hf_hub_download(repository, file, revision=revision)
    except errors as error:
        raise ConnectionError(
            f'cannot download {source}: {error}\nWithout a network, fetch the file '
            'elsewhere and give its path'
        ) from error


def _import_hub(source):
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise ValueError(
            f'{source} needs huggingface_hub, which is not installed: '
            f"pip install 'atss-jax[hub]' ({error})"
        ) from error
    return huggingface_hub


def _only_weights(source, files):
    """The file of weights in a repository that has one."""
    weights = [name for name in files if is_weights_file(name)]
    if len(weights) != 1:
        raise ValueError(
            f'{source} has {len(weights)} files of weights: name one of them, as in '
            f'{source.rstrip("/")}/FILE; it has {", ".join(sorted(files)[:20])}'
        )
    return weights[0]
