"""`atss write-shapes`: generated images as files, a small data set in COCO form."""

import argparse
import pathlib

import cv2

from atss_jax.commands import command_line
from atss_jax.config import build_experiment, load_config, parse_overrides
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.files.atomic import write_json

_SPLITS = ('train', 'val')


def parser(program: str = 'atss write-shapes') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Writes generated images as files: a small data set in COCO form.',
        command_line.FIELDS_HELP,
    )
    flags.add_argument(
        '--config',
        type=command_line.path,
        required=True,
        help='a config with generated data: atss_shapes',
    )
    flags.add_argument(
        '--out', type=command_line.path, required=True, help='folder to write to'
    )
    return flags


def main(arguments: list[str], program: str = 'atss write-shapes') -> int:
    """Writes as the flags say; gives the exit status."""
    flags, overrides = parser(program).parse_known_args(arguments)

    def action():
        config = load_config(flags.config, parse_overrides(overrides))
        print('\n'.join(write_shapes(config, flags.out)))

    return command_line.guard(program, action)


def write_shapes(config, out: str) -> list[str]:
    """Writes `out/train.json`, its images `out/train/*.png`, and the same for val.

    Read as a `CocoDataset`, they have the boxes, labels, ids and pixels that the config
    generates. A JSON file is written after its images: if it exists, all of them do.

    Args:
        config: a loaded config, whose data.train and data.val are generated.
        out: folder, made if it does not exist.

    Returns:
        A line about each split.

    Raises:
        ValueError: the data of the config is not generated, or `out` has some already.
        OSError: an image cannot be written.
    """
    data = build_experiment(config).data
    for split in _SPLITS:
        if data[split].source is not ShapesDataset:
            kind = data[split].source.__name__
            raise ValueError(
                f"data.{split}.type = '{kind}': only the images that 'ShapesDataset' "
                'generates are written, as in the config atss_shapes'
            )
        for path in _paths(out, split):
            if path.exists():
                raise ValueError(f'{path} already exists; give another --out')
    return [_write(data[split].open(), *_paths(out, split)) for split in _SPLITS]


def _paths(out, split):
    """Annotation file and image folder of a split."""
    return pathlib.Path(out, f'{split}.json'), pathlib.Path(out, split)


def _write(source, file, folder):
    folder.mkdir(parents=True)
    ground_truth = source.ground_truth()
    for index, image in enumerate(ground_truth['images']):
        pixels = source.read_image(source.records[index])
        path = folder / image['file_name']
        if not cv2.imwrite(str(path), pixels[..., ::-1]):
            raise OSError(f'{path} could not be written')
    write_json(file, ground_truth)
    return f'wrote {file} and {len(source.records)} images to {folder}'
