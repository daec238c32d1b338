"""Writes tests/golden/augment.npz: mmdetection's own augmentation on small images.

    mmdet_env/bin/python benchmarks/peers/mmdet_augment.py tests/golden/augment.npz

Run by the Python that has mmdetection 3.3.0 (`make mmdet-env`); the operators of mmcv
are not needed. Each case has the images and boxes that a transform got, what it sampled
and what it returned; the keys are explained in tests/golden/README.md. Images are RGB
in the file, and BGR where mmdetection sees them.
"""

import copy
import importlib.machinery
import sys
import types

import cv2
import numpy as np

SIZES = [(30, 40), (42, 26), (18, 53), (25, 25)]
MOSAIC = dict(img_scale=(40, 32), center_ratio_range=(0.5, 1.5), pad_val=114.0)
MIXUP = dict(img_scale=(44, 40), ratio_range=(0.5, 1.6), flip_ratio=0.5)
FLIP = ['horizontal', 'vertical', 'diagonal']


def import_transforms():
    """The module of transforms; with mmcv-lite too, which has no operators."""
    try:
        import mmcv._ext  # noqa: F401
    except ImportError:
        sys.meta_path.insert(0, _NoOperators())
    from mmdet.datasets.transforms import transforms

    return transforms


class _NoOperators:
    """Finds modules `mmcv.ops.*` that have every name, for classes never made."""

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[:2] == ['mmcv', 'ops']:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Stub(spec.name)

    def exec_module(self, module):
        pass


class _Stub(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {})


class Recorded:
    """`numpy.random`, which notes what it returns."""

    def __init__(self):
        self.values = []

    def __getattr__(self, name):
        function = getattr(np.random, name)

        def call(*arguments, **named):
            value = function(*arguments, **named)
            self.values.append(value)
            return value

        return call

    def taken(self):
        """All values since the last call, flat, as float64."""
        values, self.values = self.values, []
        return np.concatenate([np.ravel(value) for value in values]).astype(np.float64)


def image_of(random, size):
    """(H,W,3) uint8 RGB with coarse and fine structure, which compresses somewhat."""
    coarse = random.uniform(0, 255, (4, 5, 3)).astype(np.float32)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    image += (
        random.integers(-9, 10, image.shape) * (random.random(size) < 0.04)[..., None]
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def objects_of(random, size, count):
    """Boxes, some of them partly outside; labels; which are crowd regions."""
    height, width = size
    corner = random.uniform(-4, [width, height], (count, 2))
    sides = random.uniform(2, 0.8 * np.array([width, height]), (count, 2))
    boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
    return boxes, random.integers(0, 5, count), np.arange(count) % 4 == 3


def sample_of(image, boxes, labels, ignored):
    """What mmdetection's loading gives; the image becomes BGR."""
    import torch
    from mmdet.structures.bbox import HorizontalBoxes

    return {
        'img': np.ascontiguousarray(image[..., ::-1]),
        'img_shape': image.shape[:2],
        'gt_bboxes': HorizontalBoxes(torch.from_numpy(boxes.copy())),
        'gt_bboxes_labels': labels.copy(),
        'gt_ignore_flags': ignored.copy(),
    }


def main(path):
    """Makes all cases and writes them."""
    transforms = import_transforms()
    recorded = transforms.random = Recorded()
    own = {'border': (-6, 4), 'border_val': (10, 120, 230)}
    cases = {  # by name: transforms in turns, further images, seeds
        'photo': ([transforms.PhotoMetricDistortion()], 0, range(8)),
        'hsv': ([transforms.YOLOXHSVRandomAug()], 0, range(4)),
        'affine': (
            [
                transforms.RandomAffine(),
                transforms.RandomAffine(max_rotate_degree=45, **own),
            ],
            0,
            range(4),
        ),
        'mosaic': ([transforms.Mosaic(**MOSAIC)], 3, range(4)),
        'mixup': ([transforms.MixUp(**MIXUP)], 1, range(5)),
        # One in each direction, and one not mirrored.
        'flip': ([transforms.RandomFlip([0.4, 0.3, 0.2], FLIP)], 0, (0, 4, 5, 6)),
    }
    random, arrays = np.random.default_rng(20), {}
    for name, (variants, others, seeds) in cases.items():
        for case, seed in enumerate(seeds):
            given = []
            for index in range(1 + others):
                size = SIZES[(case + index) % len(SIZES)]
                given.append((image_of(random, size), *objects_of(random, size, 5)))
            step = copy.copy(variants[case % len(variants)])
            values = case_of(name, step, given, recorded, seed)
            arrays |= {f'{name}/{case}/{key}': value for key, value in values.items()}
    arrays['opencv'] = np.array(cv2.__version__)
    np.savez_compressed(path, **arrays)


def case_of(name, step, given, recorded, seed):
    """The arrays of one case: what the transform got, sampled and returned."""
    np.random.seed(seed)
    matrix = _note_matrix(step) if name == 'affine' else []
    sample, *mixed = [sample_of(*item) for item in given]
    result = step.transform(sample | {'mix_results': mixed})
    if name == 'hsv':
        np.random.seed(seed)  # it does not sample where we record: once more
        sampled = step._get_hsv_gains().astype(np.float64)
    elif name == 'flip':
        sampled = np.array([str(result['flip_direction'])])
    else:
        sampled = recorded.taken()
    if name == 'mixup':
        sampled = _with_both_offsets(sampled, given[0][0].shape[:2])
    values = {'sampled': sampled}
    if matrix:
        values['matrix'] = matrix[0]
    for index, (image, *objects) in enumerate(given):
        values |= {f'image_{index}': image, f'objects_{index}': columns(*objects)}
    image = result['img'][..., ::-1]
    values['image'] = np.ascontiguousarray(
        image[::3, ::3] if name == 'photo' else image
    )
    boxes = result['gt_bboxes'].tensor.numpy()
    labels, ignored = result['gt_bboxes_labels'], result['gt_ignore_flags']
    return values | {'objects': columns(boxes, labels, ignored)}


def columns(boxes, labels, ignored):
    """(G,6) float32: box, label, whether it is a crowd region."""
    return np.hstack([boxes, labels[:, None], ignored[:, None]]).astype(np.float32)


def _with_both_offsets(sampled, size):
    """Factor, number that decides the flip, first row and column of MixUp's window.

    MixUp samples a row or a column only where there is a choice.
    """
    factor, flip, *offsets = sampled
    both = [
        offsets.pop(0) if int(side * factor) > limit else 0
        for side, limit in zip(MIXUP['img_scale'][::-1], size, strict=True)
    ]
    return np.array([factor, flip, *both])


def _note_matrix(step):
    """Makes a RandomAffine note its matrix in the list that is returned."""
    noted, original = [], step._get_random_homography_matrix

    def sample(height, width):
        noted.append(original(height, width))
        return noted[-1]

    step._get_random_homography_matrix = sample
    return noted


if __name__ == '__main__':
    main(*sys.argv[1:])
