"""How many planted faults `atss doctor` names, compared with a random order.

    python benchmarks/doctor.py doctor_shapes --config=atss_shapes
    atss init data/bccd --out=bccd.py --start=scratch --depth=18 --epochs=8 --batch=8
    python benchmarks/doctor.py doctor_bccd --config=bccd.py --data=data/bccd

Plants faults into the training annotations (5 % of each kind, see `faults.py`), trains
on them, and ranks what is probably wrong with that detector. Precision is the share of
planted faults among the first suggestions, as many as faults were planted. Without
--data the images are generated. Started again, it continues where it was stopped.
"""

import argparse
import collections
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import faults
import numpy as np

from atss_jax.data.forms import coco
from atss_jax.files.atomic import read_given_json, write_json
from atss_jax.review import evidence
from atss_jax.review.examine import Examination, examine
from atss_jax.review.ranking import Suggestion, rank

_SHUFFLES = 1000


def main() -> None:
    """Plants, trains, ranks; prints a table and writes `OUT/figures.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', help='folder for the data, the run and the figures')
    parser.add_argument('--config', required=True, help='the config to train with')
    parser.add_argument('--data', help='data set in the form of COCO, with train, val')
    parser.add_argument('--share', type=float, default=0.05, help='of each kind')
    parser.add_argument('--seed', type=int, default=0, help='of the faults')
    flags, overrides = parser.parse_known_args()
    out = pathlib.Path(flags.out)
    data = flags.data or _generate(out / 'clean', flags.config)
    planted, most = _plant(data, out / 'data', flags.share, flags.seed)
    overrides = [f'--config.data.max_boxes={most}', *overrides]
    _atss(
        'train',
        f'--config={flags.config}',
        f'--data={out / "data"}',
        f'--workdir={out / "run"}',
        *overrides,
    )
    examined = examine(out / 'run', 'train')
    suggestions = rank(examined.images, len(examined.source.classes))
    figures = measure(suggestions, planted, examined)
    write_json(out / 'figures.json', figures, indent=1)
    print(table(figures))


def _atss(*words):
    subprocess.run([sys.executable, '-m', 'atss_jax', *words], check=True)


def _generate(folder, config):
    """Writes generated images, unless they are there; gives their folder."""
    if not (folder / 'val.json').exists():
        _atss('write-shapes', f'--config={config}', f'--out={folder}')
    return str(folder)


def _plant(data, folder, share, seed):
    """Writes the faulty data set; gives the faults and the most objects of an image."""
    form = coco.find(data)
    (folder / 'annotations').mkdir(parents=True, exist_ok=True)
    planted, most = [], 0
    for split in ('train', 'val'):
        file = os.path.join(form.folder, form.splits[split])
        content = read_given_json(file)
        if split == 'train':
            content, planted = faults.plant(content, share, seed)
        owners = collections.Counter(a['image_id'] for a in content['annotations'])
        most = max(most, *owners.values())
        write_json(folder / 'annotations' / f'instances_{split}.json', content)
        images = pathlib.Path(coco.image_folder(file)).resolve()
        if not (folder / images.name).exists():
            (folder / images.name).symlink_to(images)
    return planted, most


# Figures ------------------------------------------------------------------------------


def measure(
    suggestions: Sequence[Suggestion],
    planted: list[faults.Fault],
    examined: Examination,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """By kind, and for all: number of faults, precision and that of random orders.

    Args:
        suggestions: the most probable first.
        planted: the faults.
        examined: what was reviewed.
        seed: of the random orders.

    Returns:
        'planted': the number of faults; 'precision': among as many first suggestions;
        'annotations': that expected of a random order of all annotations and of all
        detections at no annotation, and 'sampled', the mean of `_SHUFFLES` such orders;
        'suggestions': that expected of a random order of all suggestions.
    """
    is_hit = faults.hits(suggestions, planted, examined.source.category_ids)
    kinds = np.array([each.kind for each in suggestions])
    items = _items(planted, examined)
    rng = np.random.default_rng(seed)
    figures = {}
    for kind in (*faults.KINDS, 'all'):
        count = sum(kind in (fault.kind, 'all') for fault in planted)
        chosen = is_hit if kind == 'all' else is_hit[kinds == kind]
        sampled = [
            rng.permutation(items[kind])[:count].mean() for _ in range(_SHUFFLES)
        ]
        figures[kind] = {
            'planted': count,
            'precision': float(chosen[:count].sum() / count),
            'annotations': float(items[kind].mean()),
            'sampled': float(np.mean(sampled)),
            'suggestions': float(chosen.mean()),
        }
    return figures


def _items(planted, examined):
    """By kind, whether each thing that may have such a fault has one.

    All annotations may have the wrong class, a loose box or a twin; they are the items
    of each of these kinds. Where something is missing a detection may say so.
    """
    ids = np.concatenate([image.annotation_ids for image in examined.images])
    items = {}
    for kind in faults.KINDS[1:]:
        faulty = {
            id_
            for fault in planted
            if fault.kind == kind
            for id_ in (fault.annotation['id'], fault.twin)
        }
        items[kind] = np.array([id_ in faulty for id_ in ids.tolist()])
    is_faulty = np.any(list(items.values()), axis=0)
    items['missing'] = _missing_items(planted, examined)
    return items | {'all': np.concatenate([is_faulty, items['missing']])}


def _missing_items(planted, examined):
    """(K,) whether each detection at no annotation is at an object that is left out."""
    num_classes = len(examined.source.classes)
    category_ids = examined.source.category_ids
    left_out = collections.defaultdict(list)
    for fault in planted:
        if fault.kind == 'missing':
            left_out[fault.annotation['image_id']].append(fault)
    is_hit = []
    for image in examined.images:
        rows = evidence.unannotated(evidence.compare(image, num_classes))
        for row in rows:
            category, near = category_ids[image.labels[row]], left_out[image.image_id]
            fault = faults.left_out_at(image.boxes[row], category, near)
            is_hit.append(fault is not None)
    return np.array(is_hit, bool)


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
    lines = [
        '| fault | planted | precision | random annotations | sampled | random '
        'suggestions |',
        '|---|---|---|---|---|---|',
    ]
    for kind, row in figures.items():
        shares = ('precision', 'annotations', 'sampled', 'suggestions')
        cells = [f'{row[name]:.3f}' for name in shares]
        lines.append(f'| {kind} | {row["planted"]} | {" | ".join(cells)} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
