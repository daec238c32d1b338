"""A folder in which the commands of the documentation find everything they name.

Configs keep their names, kinds of data and paths; their models, images and schedules
are those of `tests/support/small_run.py`.
"""

import json
import pathlib
import shutil

import cv2
import numpy as np

from atss_jax.config import load_config
from tests.conftest import ROOT
from tests.support import documents
from tests.support.every_form import write_coco
from tests.support.report_data import open_data, some_results
from tests.support.small_run import FinishedRun, small_overrides
from tests.training.test_convert import CONFIG

CONFIG_NAMES = ('atss_r50_1x', 'atss_r50_1x_tfds', 'atss_r18_bccd')


def write(folder: pathlib.Path, data: pathlib.Path, run: FinishedRun) -> None:
    """Fill a folder with stand-ins.

    Args:
        folder: an empty folder, later the current folder of the commands.
        data: the folder of the fixture `small_data`.
        run: a finished run; copies of it take the place of the reader's workdirs.
    """
    _write_configs(folder / 'configs', data)
    # As `atss init` writes it; nothing in it is needed but that it has data.
    shutil.copy(folder / 'configs' / 'atss_r18_bccd.py', folder / 'config.py')
    _write_data(folder, data)
    _write_images(folder, data)
    for name in ('W', 'work_dirs/mine'):
        shutil.copytree(run.workdir, folder / name)
    text = CONFIG.format(folder='data/', metainfo='')
    (folder / 'atss_r50_fpn_1x_coco.py').write_text(text)
    for page in documents.PAGES:
        for name, content in documents.files_to_write(page).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
    (folder / 'benchmarks').symlink_to(ROOT / 'benchmarks')
    (folder / 'atss_jax').symlink_to(ROOT / 'atss_jax')


def _write_configs(folder, data):
    small = small_overrides(data)
    sections = {split: small.pop(f'data.{split}') for split in ('train', 'val', 'test')}
    fields = {
        f'data.{split}.pipeline.{name}': section['pipeline'][name]
        for split, section in sections.items()
        for name in ('img_scale', 'img_norm_cfg')
    }
    more = {
        'model.pretrained': None,
        'model.backbone.depth': 18,
        'model.backbone.norm_eval': False,
        'data.workers_per_gpu': 0,
        'total_epochs': 1,
    }
    folder.mkdir()
    for name in CONFIG_NAMES:
        config = load_config(
            str(ROOT / 'configs' / f'{name}.py'), small | fields | more
        )
        (folder / f'{name}.py').write_text(
            'from ml_collections import ConfigDict\n\n\n'
            f'def get_config():\n    return ConfigDict({config.to_dict()!r})\n'
        )


def _write_data(folder, data):
    """Write the same images as COCO, as BCCD and as the reader's data; and results."""
    for name in ('coco', 'coco_tiny', 'bccd'):
        for split in ('train', 'val'):
            target = folder / 'data' / name
            (target / 'annotations').mkdir(parents=True, exist_ok=True)
            file = 'instances_{}.json' if name == 'bccd' else 'instances_{}2017.json'
            shutil.copy(
                data / f'{split}.json', target / 'annotations' / file.format(split)
            )
            if name != 'bccd':
                shutil.copytree(data / split, target / f'{split}2017')
    # Images of both splits have the same names.
    for name, split in (('mine', 'train'), ('data/bccd', 'val'), ('.', 'val')):
        shutil.copytree(data / split, folder / name / 'images')
    for split in ('train', 'val'):
        shutil.copy(data / 'train.json', folder / 'mine' / f'{split}.json')
    for split in ('train', 'test'):
        file = folder / 'data' / 'bccd' / 'annotations' / f'instances_{split}.json'
        shutil.copy(data / 'val.json', file)
    shutil.copytree(data, folder / 'data', dirs_exist_ok=True)
    shutil.copytree(data, folder / 'my_data')
    write_coco(data, folder / 'my_folder')
    shutil.copy(data / 'val.json', folder)
    results = some_results(open_data(data).ground_truth())
    (folder / 'detections.json').write_text(json.dumps(results))


def _write_images(folder, data):
    """Write images, a folder in a folder, and a video of three frames."""
    first, *rest = sorted((data / 'val').glob('*.png'))
    (folder / 'holiday' / 'beach').mkdir(parents=True)
    (folder / 'shots').mkdir()
    for number, file in enumerate(rest):
        place = ('holiday', 'holiday/beach', 'shots')[number % 3]
        shutil.copy(file, folder / place)
    cv2.imwrite(str(folder / 'street.jpg'), cv2.imread(str(first)))
    code = cv2.VideoWriter_fourcc(*'mp4v')
    video = cv2.VideoWriter(str(folder / 'drive.mp4'), code, 10.0, (80, 40))
    for value in (40, 80, 120):
        video.write(np.full((40, 80, 3), value, np.uint8))
    video.release()
