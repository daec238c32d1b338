"""Images for `input.py` to load, of a folder or generated; boxes are generated."""

import json
import pathlib

import cv2
import numpy as np

SIZE = (480, 640)
SUFFIXES = ('.jpg', '.jpeg')
_BOXES = 7  # per image; COCO has 7.3
_SCALES = (4, 8, 16, 32, 64, 128, 256, 512)
_CONTRAST = 14  # of each scale; files then have about 160 kB, as in COCO


def write_images(folder: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Writes JPEGs of noise with equal contrast at each scale, as in photographs."""
    rng = np.random.default_rng(0)
    for index in range(count):
        image = np.full((*size, 3), 128.0)
        for side in _SCALES:
            coarse = rng.normal(0, _CONTRAST, (side, side, 3))
            image += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        image = np.clip(image, 0, 255).astype(np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, 90]
        cv2.imwrite(str(folder / f'{index:04d}.jpg'), image, options)


def write_annotations(folder: pathlib.Path, count: int, path: pathlib.Path) -> None:
    """Writes a COCO file of the first images of a folder, with random boxes.

    Raises:
        ValueError: the folder has no images, or one that cannot be read.
    """
    files = [file for file in sorted(folder.glob('*')) if file.suffix in SUFFIXES]
    if not files:
        raise ValueError(f'{folder}: no images in it ({", ".join(SUFFIXES)})')
    rng, images, annotations = np.random.default_rng(0), [], []
    for image_id, file in enumerate(files[:count]):
        image = cv2.imread(str(file))
        if image is None:
            raise ValueError(f'{file}: not an image that OpenCV can read')
        height, width = image.shape[:2]
        images.append(
            {'id': image_id, 'file_name': file.name, 'height': height, 'width': width}
        )
        for box in rng.uniform(0.1, 0.5, (_BOXES, 4)) * ([width, height] * 2):
            annotations.append(
                {
                    'id': len(annotations),
                    'image_id': image_id,
                    'category_id': 1,
                    'bbox': box.tolist(),
                    'area': float(box[2] * box[3]),
                    'iscrowd': 0,
                }
            )
    categories = [{'id': 1, 'name': 'thing'}]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    path.write_text(json.dumps(content))
