"""mmdetection's side of `input.py`: the training pipeline of its ATSS config.

Run by the Python that has mmdetection; answers calls as `mmdet_side.py` does.
"""

import time

from mmdet_side import FUNCTIONS, main, versions

SCALE = (1333, 800)
_state = {}


def pipeline(flip):
    """The transforms of `atss_r50_fpn_1x_coco.py`; `flip`: probability of mirroring."""
    from mmcv.transforms import Compose, LoadImageFromFile
    from mmdet.datasets import transforms

    return Compose(
        [
            LoadImageFromFile(),
            transforms.LoadAnnotations(with_bbox=True),
            transforms.Resize(scale=SCALE, keep_ratio=True),
            transforms.RandomFlip(prob=flip),
            transforms.PackDetInputs(),
        ]
    )


def version_texts():
    """Versions as plain text: torch's is of a class that the other side may lack."""
    return {name: str(version) for name, version in versions().items()}


def setup_input(samples):
    """Takes the samples that the pipeline will load; returns OpenCV's version."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _state['pipeline'], _state['samples'] = pipeline(0.5), samples
    return cv2.__version__


def image(index):
    """The pixels (H,W,3) RGB of an image, not mirrored."""
    packed = pipeline(0.0)(_state['samples'][index])
    return packed['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]


def load_all():
    """Loads all samples; returns the seconds of processor time that it takes."""
    load, began = _state['pipeline'], time.process_time()
    for sample in _state['samples']:
        load(sample)
    return time.process_time() - began


FUNCTIONS |= {f.__name__: f for f in (version_texts, setup_input, image, load_all)}

if __name__ == '__main__':
    main()
