"""Drawing: the right pixels change, and nothing leaves the image."""

import cv2
import numpy as np
import pytest

from atss_jax.drawing import boxes as visualize
from atss_jax.drawing import tags, text

CLASSES = ('cat', 'dog', 'very long class name')
GREY = 90


def plain(height=200, width=300):
    return np.full((height, width, 3), GREY, np.uint8)


def colored(image, label):
    """Mask of the pixels that have the class's color exactly."""
    return (image == visualize.class_color(label)).all(axis=2)


def test_frame_lies_on_the_box_edges():
    image = visualize.draw_boxes(plain(), [[50, 60, 150, 120]], [1], CLASSES)
    frame = colored(image, 1)
    assert frame[60, 50:150].all() and frame[119, 50:150].all()
    assert frame[60:120, 50].all() and frame[60:120, 149].all()
    assert (image[62:118, 52:148] == GREY).all()
    assert (image[:, 151:] == GREY).all() and (image[120:] == GREY).all()


def test_inputs_stay_as_they_are():
    image, boxes = plain(), np.array([[5.0, 5, 50, 50]])
    labels, scores = np.array([0]), np.array([0.5])
    visualize.draw_boxes(image, boxes, labels, CLASSES, scores)
    visualize.scale_up(image, boxes, 800)[1][:] = 0
    visualize.scale_up(image, boxes, 10)[0][:] = 0
    assert (image == GREY).all() and boxes.tolist() == [[5, 5, 50, 50]]
    assert labels.tolist() == [0] and scores.tolist() == [0.5]


def test_no_boxes_is_no_change():
    empty = np.zeros((0, 4)), np.zeros(0, int), CLASSES, np.zeros(0)
    np.testing.assert_array_equal(visualize.draw_boxes(plain(), *empty), plain())


@pytest.mark.parametrize(
    'size', [(200, 300), (24, 300), (300, 24), (8, 8), (1200, 900)]
)
@pytest.mark.parametrize('corner', [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_tags_stay_inside_at_the_borders(size, corner):
    """A box in the corner, and far outside of it, is drawn with its whole tag."""
    x, y = corner[0] * size[1], corner[1] * size[0]
    box = [[x - 6, y - 6, x + 6, y + 6]]
    image = visualize.draw_boxes(plain(*size), box, [2], CLASSES, [0.9])
    assert image.shape == (*size, 3)
    rows, columns = np.nonzero((image != GREY).any(axis=2))
    tag = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert colored(tag, 2).mean() > 0.25  # filled, not a frame only
    far = [[-1e9, -1e9, 1e9, 1e9]]
    assert visualize.draw_boxes(plain(*size), far, [0], CLASSES).shape == (*size, 3)


def test_best_score_lies_on_top():
    boxes = [[50, 50, 150, 150], [50, 50, 150, 150]]
    image = visualize.draw_boxes(plain(), boxes, [0, 1], CLASSES, [0.9, 0.2])
    assert colored(image, 0)[149, 50:150].sum() > 90
    assert colored(image, 0)[100, 50] and not colored(image, 1)[100, 50]


def test_tags_avoid_each_other():
    boxes = [[50, 50, 150, 150], [52, 50, 148, 150]]
    image = visualize.draw_boxes(plain(), boxes, [0, 1], CLASSES, [0.9, 0.8])
    area = [colored(image, label).sum() for label in (0, 1)]
    alone = [
        colored(visualize.draw_boxes(plain(), [box], [k], CLASSES, [0.9]), k).sum()
        for k, box in enumerate(boxes)
    ]
    assert min(a / b for a, b in zip(area, alone, strict=True)) > 0.6


def crowd(side, gap, rows, columns, corner=40):
    """A grid of squares, on an image with some room around it."""
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    low = corner + (side + gap) * np.stack([x, y], -1).reshape(-1, 2)
    size = 2 * corner + (side + gap) * max(rows, columns)
    return np.concatenate([low, low + side], 1), (max(size, 480), max(size, 640))


def placed(boxes, size, name='a long name'):
    found = tags.place(size, boxes, [name] * len(boxes))
    return [tag for tag in found if tag is not None], found


def hidden(tag, box):
    """The share of a box that a tag hides."""
    width = min(tag.left + tag.width, box[2]) - max(tag.left, box[0])
    height = min(tag.top + tag.height, box[3]) - max(tag.top, box[1])
    return max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def test_names_are_left_out_where_they_would_hide_small_objects():
    """In the midst of the crowd; at its border there is room."""
    boxes, size = crowd(16, 4, 9, 9)
    drawn, found = placed(boxes, size)
    assert 0 < len(drawn) < len(boxes)
    for k, tag in enumerate(found):
        others = np.delete(boxes, k, axis=0)
        assert tag is None or max(hidden(tag, box) for box in others) <= 0.15
    for k, tag in enumerate(drawn):
        corners = tag.left, tag.top, tag.left + tag.width, tag.top + tag.height
        assert all(hidden(other, corners) <= 0.15 for other in drawn[:k])


def test_names_shrink_where_it_is_crowded():
    alone, _ = placed([[40, 40, 140, 140]], (900, 900))
    boxes, _ = crowd(40, 26, 6, 6)
    crowded, found = placed(boxes, (900, 900), 'cat')
    assert None not in found
    assert {tag.height for tag in crowded} == {crowded[0].height}
    assert crowded[0].height < 0.9 * alone[0].height


def test_a_box_alone_keeps_its_name_wherever_it_is():
    for box in ([0, 0, 3, 3], [630, 470, 640, 480], [0, 0, 640, 480]):
        assert len(placed([box], (480, 640))[0]) == 1
    assert len(placed([[0, 0, 8, 8]], (8, 8))[0]) == 1


def test_class_colors_are_stable_and_differ():
    colors = np.array([visualize.class_color(k) for k in range(80)])
    assert len(np.unique(colors, axis=0)) == 80
    neighbors = np.abs(np.diff(colors.astype(int), axis=0)).sum(axis=1)
    assert neighbors.min() > 100
    assert visualize.class_color(3) == visualize.class_color(3)


def test_ink_contrasts_with_its_background():
    assert text.ink_on((255, 255, 0)) == text.BLACK
    assert text.ink_on((0, 0, 160)) == text.WHITE


def test_names_that_cannot_be_drawn_become_their_label(monkeypatch):
    assert text.class_text('traffic light?', 9) == 'traffic light?'
    monkeypatch.setattr(text, '_has_glyph', str.isascii)
    assert text.class_text('狗', 7) == 'class 7'


def test_question_marks_are_told_from_glyphs():
    """No font has a glyph for a code point of private use."""
    assert not text._has_glyph('\U0010fffd')
    assert text._has_glyph('?')
    if int(cv2.__version__.split('.')[0]) >= 5:
        assert text.class_text('自転車', 1) == '自転車'


def test_scale_up_scales_boxes_with_the_image():
    image, boxes = visualize.scale_up(plain(100, 150), [[10, 20, 30, 40]], 300)
    assert image.shape == (300, 450, 3)
    np.testing.assert_allclose(boxes, [[30, 60, 90, 120]])
    image, boxes = visualize.scale_up(plain(100, 150), np.zeros((0, 4)), 64)
    assert image.shape == (100, 150, 3) and boxes.shape == (0, 4)


def test_contact_sheet_holds_every_image_whole():
    images = [np.full((h, w, 3), 40 * k, np.uint8) for k, (h, w) in enumerate(
        [(20, 30), (40, 10), (25, 25), (10, 60), (30, 20)], start=1)]  # fmt: skip
    sheet = visualize.contact_sheet(images, columns=2, gap=5)
    assert sheet.shape == (5 + 40 + 5 + 25 + 5 + 30 + 5, 5 + 30 + 5 + 60 + 5, 3)
    for k, image in enumerate(images, start=1):
        assert (sheet == 40 * k).all(axis=2).sum() == image.shape[0] * image.shape[1]
    assert (sheet[:5] == 255).all() and (sheet[:, :5] == 255).all()


def test_captions_and_headings_are_written_beside_the_images():
    images = [plain(50, 80)] * 3
    bare = visualize.contact_sheet(images, 2, background=(0, 0, 0))
    texts = {'captions': ['a', 'b', 'c' * 100], 'headings': ['left', 'right']}
    sheet = visualize.contact_sheet(images, 2, background=(0, 0, 0), **texts)
    assert sheet.shape[0] > bare.shape[0] and sheet.shape[1] == bare.shape[1]
    assert (sheet == GREY).all(axis=2).sum() >= 3 * 50 * 80
    assert (sheet > 200).all(axis=2).any()


def test_one_image_makes_one_column():
    sheet = visualize.contact_sheet([plain(10, 10)], columns=4, gap=0)
    assert sheet.shape == (10, 10, 3)


def test_detection_sheet_shows_truth_and_detections():
    images = [plain(64, 64), plain(64, 96)]
    truths = [([[8, 8, 40, 40]], [0]), (np.zeros((0, 4)), [])]
    found = [([[8, 8, 40, 40]] * 2, [1, 2], [0.8, 0.1]), (np.zeros((0, 4)), [], [])]
    sheet = visualize.detection_sheet(images, truths, found, CLASSES, min_side=128)
    middle = sheet.shape[1] // 2
    assert colored(sheet[:, :middle], 0).any() and colored(sheet[:, :middle], 1).any()
    assert not colored(sheet, 2).any()  # below min_score
    assert sheet.shape[1] == 5 * 8 + 2 * 128 + 2 * 192


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_written_images_read_back_as_rgb(tmp_path, suffix):
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 255
    path = tmp_path / 'new' / f'bild-ü{suffix}'
    visualize.write_image(path, image)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(read, image, atol=4)


def test_unwritable_paths_are_errors(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError):
        visualize.write_image(tmp_path / 'file' / 'a.png', plain())
    with pytest.raises(ValueError, match=r'\.png'):
        visualize.write_image(tmp_path / 'a.tiff', plain())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((plain().astype(float), [], []), 'uint8'),
        ((plain()[..., 0], [], []), 'uint8'),
        ((plain(), [[0, 0, 9, 9]], []), 'as many'),
        ((plain(), [[0, 0, 9, 9]], [3]), r'0\.\.2'),
        ((plain(), [[0, 0, 9, np.nan]], [1]), 'finite'),
    ],
)
def test_draw_boxes_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        visualize.draw_boxes(*arguments, CLASSES)


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
        visualize.contact_sheet(**{'images': [plain()] * 3, 'columns': 2, **arguments})
    with pytest.raises(ValueError, match='as many'):
        visualize.detection_sheet([plain()], [], [], CLASSES)
