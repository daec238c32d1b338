"""Drawing: the right pixels change, and nothing leaves the image."""

import cv2
import numpy as np
import pytest

from atss_jax.drawing import text
from atss_jax.drawing.boxes import (
    class_color,
    draw_boxes,
    scale_down,
    scale_up,
    write_image,
)
from atss_jax.drawing.text import place_tags
from tests.support.plain_images import CLASSES, GRAY, colored, plain


def test_frame_lies_on_the_box_edges():
    image = draw_boxes(plain(), [[50, 60, 150, 120]], [1], CLASSES)
    frame = colored(image, 1)
    assert frame[60, 50:150].all() and frame[119, 50:150].all()
    assert frame[60:120, 50].all() and frame[60:120, 149].all()
    assert (image[62:118, 52:148] == GRAY).all()
    assert (image[:, 151:] == GRAY).all() and (image[120:] == GRAY).all()


def test_inputs_stay_as_they_are():
    image, boxes = plain(), np.array([[5.0, 5, 50, 50]])
    labels, scores = np.array([0]), np.array([0.5])
    draw_boxes(image, boxes, labels, CLASSES, scores)
    scale_up(image, boxes, 800)[1][:] = 0
    scale_up(image, boxes, 10)[0][:] = 0
    assert (image == GRAY).all() and boxes.tolist() == [[5, 5, 50, 50]]
    assert labels.tolist() == [0] and scores.tolist() == [0.5]


def test_no_boxes_is_no_change():
    empty = np.zeros((0, 4)), np.zeros(0, int), CLASSES, np.zeros(0)
    np.testing.assert_array_equal(draw_boxes(plain(), *empty), plain())


@pytest.mark.parametrize(
    'size', [(200, 300), (24, 300), (300, 24), (8, 8), (1200, 900)]
)
@pytest.mark.parametrize('corner', [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_tags_stay_inside_at_the_borders(size, corner):
    """A box in the corner, and far outside of it, is drawn with its whole tag."""
    x, y = corner[0] * size[1], corner[1] * size[0]
    box = [[x - 6, y - 6, x + 6, y + 6]]
    image = draw_boxes(plain(*size), box, [2], CLASSES, [0.9])
    assert image.shape == (*size, 3)
    rows, columns = np.nonzero((image != GRAY).any(axis=2))
    tag = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert colored(tag, 2).mean() > 0.25  # filled, not a frame only
    far = [[-1e9, -1e9, 1e9, 1e9]]
    assert draw_boxes(plain(*size), far, [0], CLASSES).shape == (*size, 3)


def test_best_score_lies_on_top():
    boxes = [[50, 50, 150, 150], [50, 50, 150, 150]]
    image = draw_boxes(plain(), boxes, [0, 1], CLASSES, [0.9, 0.2])
    assert colored(image, 0)[149, 50:150].sum() > 90
    assert colored(image, 0)[100, 50] and not colored(image, 1)[100, 50]


def test_tags_avoid_each_other():
    boxes = [[50, 50, 150, 150], [52, 50, 148, 150]]
    image = draw_boxes(plain(), boxes, [0, 1], CLASSES, [0.9, 0.8])
    area = [colored(image, label).sum() for label in (0, 1)]
    alone = [
        colored(draw_boxes(plain(), [box], [k], CLASSES, [0.9]), k).sum()
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
    found = place_tags(size, boxes, [name] * len(boxes))
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
    colors = np.array([class_color(k) for k in range(80)])
    assert len(np.unique(colors, axis=0)) == 80
    neighbors = np.abs(np.diff(colors.astype(int), axis=0)).sum(axis=1)
    assert neighbors.min() > 100
    assert class_color(3) == class_color(3)


def test_ink_contrasts_with_its_background():
    assert text.text_color_on((255, 255, 0)) == text.BLACK
    assert text.text_color_on((0, 0, 160)) == text.WHITE


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
    image, boxes = scale_up(plain(100, 150), [[10, 20, 30, 40]], 300)
    assert image.shape == (300, 450, 3)
    np.testing.assert_allclose(boxes, [[30, 60, 90, 120]])
    image, boxes = scale_up(plain(2, 4096), [[0, 0, 4096, 2]], 64)
    assert image.shape == (4, 8192, 3) and boxes.tolist() == [[0, 0, 8192, 4]]
    image, boxes = scale_up(plain(2, 10_000), [[0, 0, 4096, 2]], 64)
    assert image.shape == (2, 10_000, 3)
    image, boxes = scale_up(plain(100, 150), np.zeros((0, 4)), 64)
    assert image.shape == (100, 150, 3) and boxes.shape == (0, 4)


def test_scale_down_limits_the_longer_side():
    assert scale_down(plain(100, 400), 200).shape == (50, 200, 3)
    assert scale_down(plain(1, 400), 200).shape == (1, 200, 3)
    np.testing.assert_array_equal(scale_down(plain(100, 150), 200), plain(100, 150))


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_written_images_read_back_as_rgb(tmp_path, suffix):
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 255
    path = tmp_path / 'new' / f'bild-ü{suffix}'
    write_image(path, image)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(read, image, atol=4)


def test_unwritable_paths_are_errors(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError):
        write_image(tmp_path / 'file' / 'a.png', plain())
    with pytest.raises(ValueError, match=r'\.png'):
        write_image(tmp_path / 'a.tiff', plain())


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
        draw_boxes(*arguments, CLASSES)
