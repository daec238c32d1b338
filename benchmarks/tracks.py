"""Identities in a made video: misses and switches, and frames per second.

    python benchmarks/tracks.py --workdir work_dirs/demo --out tracks_bench

Shapes move in front of a still background: their paths cross, one stands still and
others pass behind it, some come late and some leave. Each has an identity that is
known in every frame. The video is detected twice: with --track, and without it, where
an object continues the one of the same class in the frame before that it overlaps
most (IoU of at least 0.5). Needs the extra [video], and the detector of `make demo`.

An object counts where at least half of it is seen. In each frame it is matched with a
box of IoU 0.5 or more: the one of its last identity if there is one, as the MOT
challenge does it, then the nearest. A miss is an object without a box, a switch one
whose identity is not its last one.
"""

import pathlib
import time

import cv2
import numpy as np
from timing import machine, new_parser, table

from atss_jax import Detector
from atss_jax.commands.predict_files import predict_files
from atss_jax.commands.predict_results import Options
from atss_jax.data.shapes.scene import OUTLINES, Scene, drawn_box, fill, paint
from atss_jax.drawing.video_file import writing_video
from atss_jax.inference.input_files import find_files
from atss_jax.inference.tracks import NO_TRACK

SIZE = 192, 288  # height, width
FRAME_RATE = 25
NOISE = 8
MIN_VISIBLE = 0.5
MIN_IOU = 0.5

# Class, radius, position in the first frame, pixels per frame, first frame, degrees
# per frame. The frontmost comes first.
OBJECTS = (
    ('cross', 27, (144, 96), (0, 0), 0, 0),
    ('star', 22, (20, 30), (1.6, 0.9), 0, 1),
    ('circle', 18, (268, 30), (-1.5, 0.8), 0, 0),
    ('square', 19, (30, 160), (1.8, -1.0), 0, 0.5),
    ('triangle', 20, (260, 165), (-1.4, -0.9), 0, -1),
    ('circle', 17, (-20, 100), (2.2, 0), 40, 0),
    ('star', 21, (308, 60), (-2.4, 0.4), 90, 2),
    ('triangle', 19, (70, -20), (0.5, 1.5), 60, 0),
)


def main() -> None:
    """Makes the video, detects in it, and prints two tables."""
    parser = new_parser(__doc__)
    parser.add_argument('--workdir', default='work_dirs/demo', help='of make demo')
    parser.add_argument('--out', type=pathlib.Path, default='tracks_bench')
    parser.add_argument('--frames', type=int, default=250, help='default: 250')
    parser.add_argument('--score_thr', type=float, default=0.3, help='default: 0.3')
    flags = parser.parse_args()
    video = flags.out / 'shapes.mp4'
    objects = write_video(video, flags.frames)
    detector = Detector.load(
        flags.workdir,
        batch_size=4,
        overrides={'data.test.pipeline.img_scale': SIZE[::-1]},
    )
    out = str(flags.out / 'out')
    items = find_files([str(video)], out)

    def detect(**options):
        start = time.perf_counter(), time.process_time()
        settings = Options(score_thr=flags.score_thr, **options)
        outcome = predict_files(detector, items, out, settings)
        spent = time.perf_counter() - start[0], time.process_time() - start[1]
        return outcome.detections.values(), spent

    detect(draw=False)  # compiles
    runs = {
        (track, draw): detect(draw=draw, track=track)
        for track in (False, True)
        for draw in (False, True)
    }
    plain, tracked = runs[False, False][0], runs[True, False][0]
    rows = [
        ('without tracking', *count(objects, continue_nearest(plain))),
        ('with --track', *count(objects, tracks_of(tracked))),
    ]
    seen = sum(map(len, objects))
    print(f'{len(OBJECTS)} objects, seen {seen} times in {len(objects)} frames\n')
    print(table(('', 'misses', 'switches', 'false detections', 'identities'), rows))
    print(f'\n{machine()}\n')
    rates = [
        (
            *('yes' if is_on else 'no' for is_on in which),
            f'{len(objects) / wall:.1f}',
            f'{cpu / len(objects) * 1e3:.0f} ms',
        )
        for which, (_, (wall, cpu)) in runs.items()
    ]
    print(table(('tracked', 'drawn', 'frames/s', 'CPU time per frame'), rates))


# The video ---------------------------------------------------------------------------


def write_video(path: pathlib.Path, num_frames: int) -> list[dict[int, np.ndarray]]:
    """Writes the video; gives the box of each visible object in each frame, by id."""
    rng = np.random.default_rng(0)
    labels = [list(OUTLINES).index(name) for name, *_ in OBJECTS]
    visible = []
    with writing_video(path, FRAME_RATE) as write:
        for frame in range(num_frames):
            outlines = [_outline(frame, *moving) for moving in OBJECTS]
            scene = Scene(SIZE, labels, outlines)
            # Always the same seed: the same background and the same colors.
            image = paint(scene, np.random.default_rng(1), clutter=1.0, noise=0)
            noise = rng.normal(0, NOISE, image.shape)
            write(np.clip(image + noise, 0, 255).astype(np.uint8))
            visible.append(_visible(outlines))
    return visible


def _outline(frame, name, radius, start, velocity, first_frame, turn):
    age = frame - first_frame
    angle = np.deg2rad(turn * age)
    rotation = np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    # An object waits outside the image until its first frame.
    place = np.array(start) + np.array(velocity) * max(age, 0)
    return OUTLINES[name] @ rotation * radius + place


def _visible(outlines):
    """Boxes of the objects of which enough is inside the image and not covered."""
    margin = 64
    height, width = SIZE
    taken = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    outside = np.ones_like(taken)
    outside[margin:-margin, margin:-margin] = 0
    boxes = {}
    for identity, outline in enumerate(outlines):
        own = np.zeros_like(taken)
        fill(own, outline + margin, 1, line_type=cv2.LINE_8)
        free = own & ~taken & ~outside & 1
        taken |= own
        if own.any() and free.sum() >= MIN_VISIBLE * own.sum():
            boxes[identity] = drawn_box(outline, SIZE)
    return boxes


# Identities of detections ------------------------------------------------------------


def tracks_of(detections_by_frame):
    """(boxes, identities) of each frame, of the objects in tracks."""
    frames = []
    for detections in detections_by_frame:
        rows = detections.track_ids != NO_TRACK
        frames.append((detections.boxes[rows], detections.track_ids[rows].tolist()))
    return frames


def continue_nearest(detections_by_frame):
    """(boxes, identities) of each frame: those of what overlaps in the frame before."""
    frames, before, count = [], [], 0
    for detections in detections_by_frame:
        now = []
        free = list(before)
        labels = detections.labels.tolist()
        for box, label in zip(detections.boxes, labels, strict=True):
            candidates = [
                (iou(box, other), k)
                for k, (other, other_label, _) in enumerate(free)
                if other_label == label
            ]
            overlap, nearest = max(candidates, default=(0, 0))
            if overlap >= MIN_IOU:
                identity = free.pop(nearest)[2]
            else:
                count += 1
                identity = count
            now.append((box, label, identity))
        frames.append((detections.boxes, [identity for *_, identity in now]))
        before = now
    return frames


def count(objects_by_frame, identities_by_frame):
    """Misses, switches, false detections, and the number of identities."""
    misses = switches = false = 0
    last = {}
    everyone = set()
    pairs = zip(objects_by_frame, identities_by_frame, strict=True)
    for objects, (boxes, identities) in pairs:
        everyone |= set(identities)
        matched = match(objects, boxes, identities, last)
        misses += len(objects) - len(matched)
        false += len(boxes) - len(matched)
        for key, row in matched.items():
            switches += last.get(key, identities[row]) != identities[row]
            last[key] = identities[row]
    return misses, switches, false, len(everyone)


def match(objects, boxes, identities, last):
    """Index of the box of each object that has one."""
    overlaps = [
        (last.get(key) == identities[row], iou(box, other), key, row)
        for key, box in objects.items()
        for row, other in enumerate(boxes)
    ]
    matched = {}
    for _, overlap, key, row in sorted(overlaps, reverse=True):
        if overlap >= MIN_IOU and key not in matched and row not in matched.values():
            matched[key] = row
    return matched


def iou(a, b):
    """Intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.maximum(high - low, 0).prod()
    return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


if __name__ == '__main__':
    main()
