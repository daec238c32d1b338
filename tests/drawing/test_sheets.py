"""Contact sheets: every image is whole, in its place, with its texts."""

import numpy as np
import pytest

from atss_jax.drawing.sheets import contact_sheet, detection_sheet
from atss_jax.drawing.training_data import caption
from tests.support.plain_images import CLASSES, GRAY, colored, plain


def test_contact_sheet_holds_every_image_whole():
    images = [np.full((h, w, 3), 40 * k, np.uint8) for k, (h, w) in enumerate(
        [(20, 30), (40, 10), (25, 25), (10, 60), (30, 20)], start=1)]  # fmt: skip
    sheet = contact_sheet(images, columns=2, gap=5)
    assert sheet.shape == (5 + 40 + 5 + 25 + 5 + 30 + 5, 5 + 30 + 5 + 60 + 5, 3)
    for k, image in enumerate(images, start=1):
        assert (sheet == 40 * k).all(axis=2).sum() == image.shape[0] * image.shape[1]
    assert (sheet[:5] == 255).all() and (sheet[:, :5] == 255).all()


def test_captions_and_headings_are_written_next_to_the_images():
    images = [plain(50, 80)] * 3
    bare = contact_sheet(images, 2, background=(0, 0, 0))
    texts = {'captions': ['a', 'b', 'c' * 100], 'headings': ['left', 'right']}
    sheet = contact_sheet(images, 2, background=(0, 0, 0), **texts)
    assert sheet.shape[0] > bare.shape[0] and sheet.shape[1] == bare.shape[1]
    assert (sheet == GRAY).all(axis=2).sum() >= 3 * 50 * 80
    assert (sheet > 200).all(axis=2).any()


def test_one_image_makes_one_column():
    sheet = contact_sheet([plain(10, 10)], columns=4, gap=0)
    assert sheet.shape == (10, 10, 3)


def test_detection_sheet_shows_ground_truth_and_detections():
    images = [plain(64, 64), plain(64, 96)]
    ground_truth = [([[8, 8, 40, 40]], [0]), (np.zeros((0, 4)), [])]
    detections = [
        ([[8, 8, 40, 40]] * 2, [1, 2], [0.8, 0.1]),
        (np.zeros((0, 4)), [], []),
    ]
    sheet = detection_sheet(images, ground_truth, detections, CLASSES, min_side=128)
    middle = sheet.shape[1] // 2
    assert colored(sheet[:, :middle], 0).any() and colored(sheet[:, :middle], 1).any()
    assert not colored(sheet, 2).any()  # below min_score
    assert sheet.shape[1] == 5 * 8 + 2 * 128 + 2 * 192


@pytest.mark.parametrize(
    'arguments',
    [
        {'images': []},
        {'columns': 0},
        {'gap': -1},
        {'captions': ['only one']},
        {'headings': ['a', 'b', 'c']},
    ],
)
def test_contact_sheet_refuses_what_does_not_fit(arguments):
    with pytest.raises(ValueError, match='expected'):
        contact_sheet(**{'images': [plain()] * 3, 'columns': 2, **arguments})
    with pytest.raises(ValueError, match='as many'):
        detection_sheet([plain()], [], [], CLASSES)


def test_captions_of_images_have_the_width_first():
    row = {'image_id': 7, 'image_size': np.array([60, 80]), 'skipped': -1}
    row['image'] = np.zeros((64, 96, 3), np.uint8)
    assert caption(row) == '7: 80x60 on 96x64'
    assert caption(row | {'skipped': 9}).endswith(', in place of a bad image')
