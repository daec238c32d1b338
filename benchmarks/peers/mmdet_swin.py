"""mmdetection's side of `benchmarks/swin.py`, run by the Python that has mmdetection.

Reads pickled (function, arguments) from standard input, and answers on standard output.
Only the file of the Swin Transformer and what it imports are loaded, without the rest
of mmdetection: it runs with mmcv-lite, too, which has no compiled operators.
"""

import importlib
import importlib.util
import os
import pathlib
import pickle
import sys
import types

MODULES = ('models', 'models.backbones', 'models.layers', 'models.layers.transformer')

_state = {}


def _swin_module():
    """Imports mmdet's `swin.py`, with empty packages around it."""
    root = pathlib.Path(importlib.util.find_spec('mmdet').origin).parent
    for name in ('', *MODULES):
        package = types.ModuleType('.'.join(filter(None, ('mmdet', name))))
        package.__path__ = [str(root.joinpath(*name.split('.')))]
        sys.modules[package.__name__] = package
    layers = importlib.import_module('mmdet.models.layers')
    utils = importlib.import_module('mmdet.models.layers.transformer.utils')
    layers.PatchEmbed, layers.PatchMerging = utils.PatchEmbed, utils.PatchMerging
    return importlib.import_module('mmdet.models.backbones.swin')


def versions():
    """The versions of mmdetection and of the libraries that it needs."""
    import mmcv
    import torch

    version = importlib.import_module('importlib.metadata').version('mmdet')
    return {
        'mmdetection': version,
        'mmcv': mmcv.__version__,
        'torch': str(torch.__version__),
    }


def setup(state, image):
    """Builds a Swin-T with these weights, for an image (1,H,W,3)."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = _swin_module().SwinTransformer(drop_path_rate=0.0)
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    result = model.load_state_dict(tensors, strict=False)
    others = [name for name in result.missing_keys if not name.endswith('_index')]
    if others or result.unexpected_keys:
        raise ValueError(f'other names: {others}, {result.unexpected_keys}')
    model.eval()
    _state['model'] = model
    _state['image'] = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()


def forward():
    """Computes the features, and returns nothing."""
    import torch

    with torch.no_grad():
        _state['features'] = _state['model'](_state['image'])


def features():
    """The features of all stages, (1,H,W,C) each."""
    forward()
    return [x.permute(0, 2, 3, 1).numpy() for x in _state['features']]


FUNCTIONS = {
    function.__name__: function for function in (versions, setup, forward, features)
}


def main():
    """Answers calls until the input ends."""
    answers = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (None, FUNCTIONS[name](*arguments))
        except (ValueError, ImportError) as error:
            answer = (f'{type(error).__name__}: {error}', None)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == '__main__':
    main()
