"""From the detections of a data set to its COCO numbers, by hotcoco and by pycocotools.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --images 500 --rounds 1

Objects and detections are random, by default as many as in COCO's val2017 with 100
detections per image: half of these are moved copies of objects. Each scoring is a
process of its own; they run in turns. Both must give the same numbers.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import timing

from atss_jax.commands.command_line import positive
from atss_jax.evaluation import coco_metric, precision_recall
from atss_jax.evaluation.run import to_results
from atss_jax.structures import Detections

_SIZE = (640, 480)
_OBJECTS = 7  # per image; COCO has 7.3


def boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """(count,4) xyxy of all of COCO's sizes."""
    sizes = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
    corners = random.uniform(0, 1, (count, 2)) * np.maximum(np.array(_SIZE) - sizes, 1)
    return np.concatenate([corners, corners + sizes], 1)


def data(
    images: int, per_image: int, classes: int
) -> tuple[dict, dict[int, Detections]]:
    """Ground truth as a COCO dict, and detections by image id."""
    random, annotations, detections = np.random.default_rng(0), [], {}
    for image_id in range(1, images + 1):
        objects = boxes(random, _OBJECTS)
        labels = random.integers(0, classes, _OBJECTS)
        for box, label in zip(objects, labels.tolist(), strict=True):
            x, y, width, height = *box[:2].tolist(), *(box[2:] - box[:2]).tolist()
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': label + 1,
                    'bbox': [x, y, width, height],
                    'area': width * height * 0.6,
                    'iscrowd': int(random.random() < 0.01),
                }
            )
        detected = boxes(random, per_image)
        detected_labels = random.integers(0, classes, per_image)
        copies = random.integers(0, _OBJECTS, per_image // 2)
        moves = random.normal(0, 6, (len(copies), 4))
        detected[: len(copies)] = objects[copies] + moves
        detected_labels[: len(copies)] = labels[copies]
        detections[image_id] = Detections(
            detected.astype(np.float32),
            np.sort(random.random(per_image).astype(np.float32))[::-1],
            detected_labels.astype(np.int32),
            np.ones(per_image, bool),
        )
    width, height = _SIZE
    ground_truth = {
        'images': [
            {'id': i, 'height': height, 'width': width} for i in range(1, images + 1)
        ],
        'annotations': annotations,
        'categories': [{'id': i + 1, 'name': f'class {i}'} for i in range(classes)],
    }
    return ground_truth, detections


def peak() -> float:
    """MB of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def score(flags: argparse.Namespace) -> dict[str, object]:
    """Scores once: seconds, processor seconds, MB on top of the data, and AP."""
    ground_truth, detections = data(flags.images, flags.detections, flags.classes)
    ids = tuple(range(1, flags.classes + 1))
    hotcoco, memory = precision_recall.find_hotcoco(), peak()
    began, processor = time.perf_counter(), time.process_time()
    if flags.by == 'hotcoco':
        scored = coco_metric.to_scored(ground_truth, detections, ids)
        arrays = precision_recall.by_hotcoco(scored, hotcoco)
    else:
        results = to_results(detections, ids)
        scored = coco_metric.to_scored(ground_truth, results, ids)
        arrays = precision_recall.by_pycocotools(scored)
    counted = coco_metric.Accumulated(arrays['precision'], arrays['recall'])
    names = tuple(map(str, ids))
    numbers = coco_metric.scores_of(counted, names).summary
    return {
        'seconds': time.perf_counter() - began,
        'processor': time.process_time() - processor,
        'memory': peak() - memory,
        'numbers': numbers,
    }


def measure(flags: argparse.Namespace) -> dict[str, list[dict]]:
    """What each library needed, round by round.

    Raises:
        ValueError: the numbers differ.
    """
    rounds = {'hotcoco': [], 'pycocotools': []}
    for _ in range(flags.rounds):
        for name, measured in rounds.items():
            command = [sys.executable, __file__, *sys.argv[1:], f'--by={name}']
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured.append(json.loads(done.stdout))
    numbers = [m['numbers'] for measured in rounds.values() for m in measured]
    if any(other != numbers[0] for other in numbers):
        raise ValueError(f'the numbers differ: {numbers}')
    return rounds


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--images', type=positive, default=5000)
    parser.add_argument('--detections', type=positive, default=100, help='per image')
    parser.add_argument('--classes', type=positive, default=80)
    parser.add_argument('--rounds', type=positive, default=3)
    parser.add_argument(
        '--by', choices=('hotcoco', 'pycocotools'), help='only score, once, as JSON'
    )
    flags = parser.parse_args()
    if flags.by:
        print(json.dumps(score(flags)))
        return 0
    if precision_recall.find_hotcoco() is None:
        parser.error('hotcoco is not installed: there is nothing to compare with')
    rounds = measure(flags)
    first = rounds['hotcoco'][0]['numbers']
    print(
        f'{timing.machine()}; {flags.images} images, '
        f'{flags.images * _OBJECTS} objects, '
        f'{flags.images * flags.detections} detections; '
        f'AP {first["AP"]:.6f}, '
        f'AR100 {first["AR100"]:.6f} by both\n'
    )
    print(timing.resources(rounds))
    return 0


if __name__ == '__main__':
    sys.exit(main())
