"""mmdetection's side of `mmdet_cpu.py`, run by the Python that has mmdetection.

Reads pickled (function, arguments) from standard input, and answers on standard output.
Imports neither atss_jax nor JAX.
"""

import ctypes
import os
import pathlib
import pickle
import re
import sys

import numpy as np

MMDET = '3.3.0'
CONFIG = '.mim/configs/atss/atss_r50_fpn_1x_coco.py'  # in the wheel

_state = {}  # the model, and prepared calls by name


class Unusable(Exception):
    """This environment cannot be used."""


def versions():
    """The versions of mmdetection and of the libraries that it needs."""
    import mmcv
    import mmdet
    import torch

    if mmdet.__version__ != MMDET:
        raise Unusable(f'has mmdetection {mmdet.__version__}, expected {MMDET}')
    return {
        'mmdetection': MMDET,
        'mmcv': mmcv.__version__,
        'torch': str(torch.__version__),
    }


def setup(threads, state_dict, fields):
    """Builds the detector of mmdetection's own config, with these weights.

    Args:
        threads: of torch.
        state_dict: the weights.
        fields: what differs from the config, such as `{'model.backbone.depth': 18}`.
    """
    import mmdet.models
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    torch.set_num_threads(threads)
    init_default_scope('mmdet')
    config = Config.fromfile(pathlib.Path(mmdet.__file__).parent / CONFIG)
    config.model.backbone.init_cfg = None
    config.merge_from_dict(fields)
    model = MODELS.build(config.model)
    tensors = {name: torch.from_numpy(value) for name, value in state_dict.items()}
    model.load_state_dict(tensors)
    # With `norm_eval`, as in its config, batch norms read stored statistics even so.
    model.train()
    _state['model'] = model


def _tensor(array):
    """A torch tensor of an array with channels last."""
    import torch

    array = np.moveaxis(array, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(array))


def forward(image):
    """Head outputs: class logits, deltas, centerness, by level."""
    import torch

    model, images = _state['model'], _tensor(image)

    def call():
        with torch.no_grad():
            return model(images, mode='tensor')

    def result(outputs):
        levels = [level for output in outputs for level in output]
        return [np.moveaxis(level.numpy(), 1, -1) for level in levels]

    return call, result


def training(images, boxes, labels, rate, max_norm=None):
    """Losses and gradients of a batch; with a rate, also a step of SGD."""
    import torch

    samples = [
        _sample(images.shape[1:3], *objects)
        for objects in zip(boxes, labels, strict=True)
    ]
    model, images = _state['model'], _tensor(images)
    trained = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.SGD(trained, rate or 0, momentum=0.9, weight_decay=1e-4)

    def call():
        optimizer.zero_grad()
        losses = model.loss(images, samples)
        losses = {name: sum(levels) for name, levels in losses.items()}
        sum(losses.values()).backward()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(trained, max_norm)
        if rate:
            optimizer.step()
        return losses

    def result(losses):
        names = model.named_parameters()
        gradients = {n: x.grad.numpy() for n, x in names if x.grad is not None}
        return {n: float(x.detach()) for n, x in losses.items()}, gradients

    return call, result


def _sample(size, boxes, labels):
    """What mmdetection knows of an image that fills its canvas."""
    from mmdet.structures import DetDataSample

    meta = {'img_shape': size, 'pad_shape': size, 'batch_input_shape': size}
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = _instances(boxes, labels)
    return sample


def _instances(boxes, labels):
    import torch
    from mmengine.structures import InstanceData

    labels = torch.from_numpy(labels).long()
    return InstanceData(bboxes=torch.from_numpy(boxes), labels=labels)


def assignment(boxes, labels, canvas):
    """Index of the box of each anchor, -1 for none; anchors are made beforehand."""
    import torch
    from mmengine.structures import InstanceData

    head = _state['model'].bbox_head
    sizes = [
        [-(-side // s[0]) for side in canvas] for s in head.prior_generator.strides
    ]
    levels = head.prior_generator.grid_priors(sizes, device='cpu')
    priors = InstanceData(priors=torch.cat(levels))
    counts, instances = [len(level) for level in levels], _instances(boxes, labels)

    def call():
        return head.assigner.assign(priors, counts, instances)

    return call, lambda assigned: assigned.gt_inds.numpy() - 1


def detections(outputs, canvas, scale):
    """Boxes in the original image, scores, labels."""
    import torch

    head = _state['model'].bbox_head
    levels = [[_tensor(level) for level in output] for output in outputs]
    metas = [{'img_shape': canvas, 'scale_factor': scale}]

    def call():
        with torch.no_grad():
            return head.predict_by_feat(*levels, batch_img_metas=metas, rescale=True)

    def result(results):
        instances = results[0]
        fields = instances.bboxes, instances.scores, instances.labels
        return [x.numpy() for x in fields]

    return call, result


def prepare(name, work, *arguments):
    """Prepares one of the works above as the call `name`; returns its result."""
    call, result = WORKS[work](*arguments)
    _state[name] = call
    return result(call())


def run(name):
    """Runs a prepared call."""
    _state[name]()


def nothing():
    """Does nothing, to measure what a call from the other process costs."""


def peak_memory(name):
    """Bytes by which the resident memory grows at most during a call."""
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    before = _resident('VmRSS')
    _state[name]()
    return _resident('VmHWM') - before


def _resident(field):
    status = pathlib.Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'{field}:\s+(\d+) kB', status)[1])


WORKS = {f.__name__: f for f in (forward, training, assignment, detections)}
FUNCTIONS = {
    f.__name__: f for f in (versions, setup, prepare, run, nothing, peak_memory)
}


def main():
    """Answers each call with (problem, result) until there are no more."""
    answers = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # so that output of libraries is not taken for an answer
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = None, FUNCTIONS[name](*arguments)
        except ImportError as error:
            answer = f'{sys.executable} cannot import mmdetection: {error}', None
        except Unusable as error:
            answer = f'{sys.executable} {error}', None
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == '__main__':
    main()
