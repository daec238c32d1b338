"""A model zoo on a local server, and checkpoints in the forms of mmdetection's."""

import hashlib
import json
import pathlib

import numpy as np

from atss_jax.weights import mmdet, model_zoo
from atss_jax.weights.torch_file import pth
from tests.support import pickles

KINDS = {'float32': 'Float', 'int64': 'Long'}
# Buffers that some old versions of mmdetection saved.
COMPUTED = {
    'bbox_head.anchor_generator.base_anchors': np.ones((1, 4), np.float32),
    'bbox_head.anchor_generators.0.base_anchors': np.ones((1, 4), np.float32),
}


def quick_state_dict(model, seed=0):
    """Weights by mmdet's names: as large as those of a trained model, made quickly."""
    rng = np.random.default_rng(seed)
    shapes = mmdet.variable_shapes(model)
    values = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    names = {mmdet.torch_name(path): path for path in values}
    noise = rng.standard_normal(1 << 20, np.float32)
    layouts = {
        name: mmdet._to_torch_layout(path, values[path]) for name, path in names.items()
    }
    return {name: _value(name, array, noise) for name, array in layouts.items()}


def _value(name, array, noise):
    if name.endswith('num_batches_tracked'):
        return np.asarray(7, np.int64)
    z = np.resize(noise[len(name) :], array.shape)
    if name.endswith('running_var'):
        return 1 + 0.2 * abs(z)
    if name.endswith('.bias'):
        return np.asarray(-3 + 0.3 * z if 'atss_cls' in name else 0.1 * z)
    if array.ndim > 1:
        return z / np.float32(np.sqrt(np.prod(array.shape[1:])))
    return np.asarray(0.3 + 0.05 * z if name.endswith('bn3.weight') else 1 + 0.1 * z)


def write_old(path, weights, classes):
    """A checkpoint of mmdetection 2.x from before torch 1.6 and 0.4.1."""
    weights = weights | COMPUTED
    weights = {k: x for k, x in weights.items() if not k.endswith('batches_tracked')}
    tensors = {
        name: pickles.tensor(
            str(number), KINDS[x.dtype.name], x.size, 0, x.shape, pth._strides(x.shape)
        )
        for number, (name, x) in enumerate(weights.items())
    }
    meta = pickles.literal({'epoch': 12, 'CLASSES': classes, 'mmdet_version': '1.0'})
    body = pickles.mapping(meta=meta, state_dict=pickles.mapping(**tensors))
    storages = {str(number): x.ravel() for number, x in enumerate(weights.values())}
    pickles.write('legacy', path, body, storages)


def write_new(path, weights, classes):
    """A checkpoint of mmdetection 3.x."""
    meta = {'dataset_meta': {'classes': classes, 'palette': [(1, 2, 3)]}, 'epoch': 12}
    pth.save(path, {'meta': meta, 'state_dict': weights, 'message_hub': {}})


def write_bare(path, weights, classes):
    """A checkpoint that does not name its classes."""
    pth.save(path, {'meta': {}, 'state_dict': weights})


FORMS = {'2.x': write_old, '3.x': write_new, 'bare': write_bare}


class Zoo:
    """Models on a local server, by the file that `$ATSS_JAX_MODELS` names.

    Attributes:
        server: the server.
        cache: the cache of downloads.
        models: fields of the models by name.
    """

    def __init__(self, server, folder: pathlib.Path, monkeypatch):
        self.server, self.cache, self.models = server, folder / 'cache', {}
        self.file = folder / 'models.json'
        self._folder = folder
        monkeypatch.setenv('ATSS_JAX_CACHE', str(self.cache))
        monkeypatch.setenv(model_zoo.FILES_VARIABLE, str(self.file))
        self.write()

    def add(self, name, config, content: bytes, **fields) -> str:
        """Offers a file as the weights of a model; gives its name there."""
        digest = hashlib.sha256(content).hexdigest()
        file = f'{name}-{digest[:8]}.pth'
        self.server.files[f'/zoo/{file}'] = content
        addresses = [f'{self.server.url}/zoo/{file}']
        self.models[name] = {
            'config': str(config),
            'addresses': addresses,
            'sha256': digest[:8],
            **fields,
        }
        self.write()
        return file

    def add_weights(self, name, config, weights, classes, form='3.x', **fields) -> str:
        """As `add`, of weights by mmdet's names; the zoo knows the classes too."""
        path = self._folder / 'published.pth'
        FORMS[form](path, weights, tuple(classes))
        content = path.read_bytes()
        return self.add(name, config, content, classes=list(classes), **fields)

    def write(self):
        self.file.write_text(json.dumps(self.models))

    @property
    def downloads(self) -> list[str]:
        """The files that were asked for."""
        return [path for path, _ in self.server.requests]
