"""Backbones pretrained on ImageNet, by the names that mmdet's configs use.

Files are downloaded once into a cache, checked against the hash in their name, and read
without PyTorch. A path to a local file can be given instead of a name.
"""

import os
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from atss_jax.files.cached import cached_file, name_in
from atss_jax.files.download import cache_folder
from atss_jax.weights import mmdet_checkpoint
from atss_jax.weights.prefixes import describe_prefixes, prefixes_of

PYTORCH_URL = 'https://download.pytorch.org/models'
OPENMMLAB_URL = 'https://download.openmmlab.com/pretrain/third_party'

# IMAGENET1K_V1, as in torchvision 0.11 and newer; older versions, which mmengine asks
# if they are installed, have other files (resnet50-19c8e357.pth).
TORCHVISION_FILES = {
    'resnet18': 'resnet18-f37072fd.pth',
    'resnet34': 'resnet34-b627a593.pth',
    'resnet50': 'resnet50-0676ba61.pth',
    'resnet101': 'resnet101-63fe2227.pth',
    'resnet152': 'resnet152-394f9c45.pth',
}
# From open_mmlab.json of mmengine and mmcv. Those named 'caffe' need `style='caffe'`,
# and BGR images that are not divided by a standard deviation.
OPENMMLAB_FILES = {
    'detectron/resnet50_caffe': 'resnet50_caffe-788b5fa3.pth',
    'detectron/resnet101_caffe': 'resnet101_caffe-3ad79236.pth',
    'detectron2/resnet50_caffe': 'resnet50_msra-5891d200.pth',
    'detectron2/resnet101_caffe': 'resnet101_msra-6cc46731.pth',
    'detectron2/resnext101_32x8d': 'resnext101_32x8d-1516f1aa.pth',
    'resnext50_32x4d': 'resnext50-32x4d-0ab1a123.pth',
    'resnext101_32x4d': 'resnext101_32x4d-a5af3160.pth',
    'resnext101_64x4d': 'resnext101_64x4d-ee2c6f71.pth',
}
# Converted from Caffe2. Some have biases of convolutions, which the batch norms that
# follow already include; Detectron and mmdet ignore them too.
_FROM_CAFFE = frozenset(
    file for name, file in OPENMMLAB_FILES.items() if name.startswith('detectron')
)
_WHOLE = 'it has those of a whole detector; give it as load_from instead'


def resolve(
    name_or_path: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    has_names: bool = True,
) -> pathlib.Path:
    """The local file of a backbone, downloaded if it is not in the cache.

    Args:
        name_or_path: 'torchvision://resnet50', 'open-mmlab://detectron2/resnet50_caffe',
            an http(s) URL (such as a checkpoint of mmdet's model zoo), or a path.
        cache_dir: folder of downloads; default `$ATSS_JAX_CACHE` or
            `~/.cache/atss_jax`.
        has_names: whether names are accepted; all of them are of ResNets.

    Raises:
        ValueError: the name is unknown, or a file does not have the hash in its name.
        FileNotFoundError: there is no such path.
        ConnectionError: the download failed; says which URL to fetch and where to put
            the file.
    """
    name = os.fspath(name_or_path)
    if '://' not in name:
        path = pathlib.Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such file; {_expected(has_names)}')
        return path
    url = _url(name) if has_names or _is_url(name) else None
    if url is None:
        raise ValueError(f'no weights named {name!r}; {_expected(has_names)}')
    cache = pathlib.Path(cache_dir).expanduser() if cache_dir else cache_folder()
    return cached_file([url], cache / name_in(url))


def backbone_weights(
    name_or_path: str | os.PathLike,
    wanted: Iterable[str],
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, np.ndarray]:
    """Reads the arrays of a pretrained ResNet, exactly the wanted ones.

    Names are torchvision's ('layer1.0.conv1.weight'), which are mmdet's without
    'backbone.'. The classifier of the file (`fc.*`) is ignored; `num_batches_tracked`
    is 0 if the file does not have it.

    Raises:
        ValueError: the file lacks names or has others; lists them.
    """
    path = resolve(name_or_path, cache_dir)
    weights, wanted = mmdet_checkpoint.state_dict(path), set(wanted)
    missing = {name for name in wanted - weights.keys() if not _is_counter(name)}
    unexpected = {
        name for name in weights.keys() - wanted if not _is_ignored(name, path.name)
    }
    if missing and (prefixes := prefixes_of(weights, sorted(missing))):
        is_detector = any(name.startswith('bbox_head.') for name in weights)
        raise ValueError(
            f'{path} does not have the weights of this backbone: '
            + (_WHOLE if is_detector else describe_prefixes(prefixes))
        )
    check_names(path, missing, unexpected)
    zero = np.zeros((), np.int64)
    return {name: weights.get(name, zero) for name in sorted(wanted)}


def check_names(path: pathlib.Path, missing: set[str], unexpected: set[str]) -> None:
    """Raises ValueError if a file of weights lacks names or has others; lists them."""
    if missing or unexpected:
        raise ValueError(
            f'{path} does not have the weights of this backbone: it lacks '
            f'{_listed(missing)}; it also has {_listed(unexpected)}'
        )


def _is_counter(name: str) -> bool:
    return name.endswith('num_batches_tracked')


def _is_ignored(name: str, file: str) -> bool:
    conv_bias = re.search(r'(^|\.)(conv\d|downsample\.0)\.bias$', name)
    from_caffe = file in _FROM_CAFFE and conv_bias is not None
    return from_caffe or name.startswith('fc.') or _is_counter(name)


def _listed(names: set[str], limit: int = 12) -> str:
    if not names:
        return 'nothing'
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(sorted(names)[:limit]) + more


def _expected(has_names):
    """What may be given for weights, for messages."""
    forms = 'expected the path or https:// address of a .pth or .safetensors file'
    return f'{forms}, or one of {", ".join(_known_names())}' if has_names else forms


def _known_names() -> list[str]:
    return [
        *(f'torchvision://{name}' for name in TORCHVISION_FILES),
        *(f'open-mmlab://{name}' for name in OPENMMLAB_FILES),
    ]


def _is_url(name):
    return name.startswith(('http://', 'https://'))


def _url(name: str) -> str | None:
    """The address that a name stands for; None: it is not known."""
    if _is_url(name):
        return name
    scheme, _, rest = name.partition('://')
    if scheme == 'torchvision' and rest in TORCHVISION_FILES:
        return f'{PYTORCH_URL}/{TORCHVISION_FILES[rest]}'
    if scheme == 'open-mmlab' and rest in OPENMMLAB_FILES:
        return f'{OPENMMLAB_URL}/{OPENMMLAB_FILES[rest]}'
    return None
