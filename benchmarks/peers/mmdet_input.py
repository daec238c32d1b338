"""mmdetection's side of `input.py`: its training pipeline, as its ATSS config has it.

Run by the Python that has mmdetection; asked and answering as `mmdet_side.py` is.
"""

import time

from mmdet_side import FUNCTIONS, main, versions

SCALE = (1333, 800)
_state = {}


def pipeline(flip):
    """The transforms of `atss_r50_fpn_1x_coco.py`; `flip`: share that is mirrored."""
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
    """Versions as plain text: torch's own is of a class that we need not have."""
    return {name: str(version) for name, version in versions().items()}


def setup_input(samples):
    """Takes what the data set would hand to the pipeline; gives OpenCV's version."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _state['pipeline'], _state['samples'] = pipeline(0.5), samples
    return cv2.__version__


def image(index):
    """(H,W,3) RGB of an image, not mirrored."""
    found = pipeline(0.0)(_state['samples'][index])
    return found['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]


def load_all():
    """Loads all samples; gives the seconds of processor time that this takes."""
    load, began = _state['pipeline'], time.process_time()
    for sample in _state['samples']:
        load(sample)
    return time.process_time() - began


FUNCTIONS |= {f.__name__: f for f in (version_texts, setup_input, image, load_all)}

if __name__ == '__main__':
    main()
