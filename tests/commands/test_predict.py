"""predict.py: what it writes, and what a user reads when something is wrong."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from atss_jax.commands.predict_results import draw_detections
from atss_jax.drawing.boxes import encode_image
from atss_jax.evaluation.evaluate import evaluate
from atss_jax.inference.detector import Detector
from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.input_files import choose_ids, find_files


@pytest.fixture
def images(small_data, tmp_path):
    """A folder of nine images, one of them in a folder of its own."""
    folder = shutil.copytree(small_data / 'val', tmp_path / 'pictures')
    (folder / 'deep').mkdir()
    first = min(folder.glob('*.png'))
    first.rename(folder / 'deep' / first.name)
    return folder


@pytest.fixture
def predict(small_run, tmp_path, call):
    """`predict(*arguments)` runs `main()` of predict.py: status, out, err."""
    out = tmp_path / 'out'

    def run(*arguments, workdir=small_run.workdir):
        words = f'--workdir={workdir}', f'--out={out}', *arguments
        result = call('predict', *words)
        return result.status, result.out, result.err

    return run


def content(out):
    results = json.loads((out / 'detections.json').read_text())
    listed = json.loads((out / 'pictures.json').read_text())
    with (out / 'detections.csv').open() as file:
        return results, listed, list(csv.DictReader(file))


def test_a_folder(predict, images, small_run, tmp_path):
    status, text, _ = predict(images, '--score_thr=0', '--batch_size=2')
    assert status == 0 and '9 images' in text
    out = tmp_path / 'out'
    drawn = {str(p.relative_to(out)) for p in out.rglob('*.jpg')}
    files = sorted(images.rglob('*.png'))
    names = [p.relative_to(images).with_suffix('.jpg') for p in files]
    assert drawn == {f'pictures/{name}' for name in names}
    image = cv2.imread(str(out / 'pictures' / names[0]))
    assert min(image.shape[:2]) == 320
    results, listed, rows = content(out)
    assert [one['file_name'] for one in listed['images']] == list(map(str, files))
    assert listed['categories'][0] == {'id': 1, 'name': 'red'}
    # The same as the detector says, in the same order.
    best = Detector.load(small_run.workdir, batch_size=2).predict(files)
    assert len(results) == len(rows) == sum(map(len, best)) > 50
    (one, *_), first = best, results[0]
    assert first['image_id'] == 1 and rows[0]['file'] == str(files[0])
    assert first['score'] == pytest.approx(float(one.scores[0]), abs=1e-6)
    assert first['category_id'] == one.labels[0] + 1
    x1, y1, x2, y2 = one.boxes[0].tolist()
    assert first['bbox'] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-4)
    assert rows[0]['class'] == one.names[0]
    assert float(rows[0]['x2']) == pytest.approx(x2, abs=0.01)


def test_ids_of_a_coco_file(predict, small_data, small_run, tmp_path):
    """What is written then is what the evaluation writes."""
    truth = f'--ann_file={small_data / "val.json"}'
    flags = truth, '--score_thr=0', '--batch_size=2', '--no_pictures'
    assert predict(small_data / 'val', *flags)[0] == 0
    results, listed, _ = content(tmp_path / 'out')
    assert {one['name']: one['id'] for one in listed['categories']} == {
        'red': 7,
        'green': 2,
        'blue': 11,
    }
    workdir = shutil.copytree(small_run.workdir, tmp_path / 'run')
    evaluate(str(workdir))
    (file,) = (workdir / 'evaluation').glob('val_*_detections.json')

    def rows(results):
        order = sorted(results, key=lambda one: (one['image_id'], -one['score']))
        return [
            [r['image_id'], r['category_id'], r['score'], *r['bbox']] for r in order
        ]

    expected = rows(json.loads(file.read_text()))
    np.testing.assert_allclose(rows(results), expected, atol=1e-3)
    status, _, err = predict(small_data / 'train', *flags)
    assert status == 1 and 'does not list' in err


@pytest.mark.parametrize('spoil', ['no annotations', 'null', 'bad annotations'])
def test_only_names_and_ids_of_a_coco_file_are_read(
    predict, small_data, tmp_path, spoil
):
    content_ = json.loads((small_data / 'val.json').read_text())
    for image in content_['images']:
        del image['height'], image['width']
    if spoil == 'no annotations':
        del content_['annotations']
    elif spoil == 'null':
        content_['annotations'] = None
    else:
        content_['annotations'][0]['bbox'] = 'oops'
    file = tmp_path / 'names.json'
    file.write_text(json.dumps(content_))
    flags = f'--ann_file={file}', '--batch_size=2', '--no_pictures'
    assert predict(small_data / 'val', *flags)[0] == 0
    listed = content(tmp_path / 'out')[1]['images']
    ids = {image['id'] for image in content_['images']}
    assert {image['id'] for image in listed} == ids


def test_files_and_an_annotation_file_seen_from_another_folder(
    predict, small_data, tmp_path, monkeypatch
):
    content_ = json.loads((small_data / 'val.json').read_text())
    folder = shutil.copytree(small_data / 'val', tmp_path / 'a')
    for image in content_['images']:
        image['file_name'] = f'a/{image["file_name"]}'
    (tmp_path / 'sf.json').write_text(json.dumps(content_))
    monkeypatch.chdir(folder)
    status, _, err = predict(
        '.', '--ann_file=../sf.json', '--batch_size=2', '--no_pictures'
    )
    assert status == 0, err
    listed = content(tmp_path / 'out')[1]['images']
    assert all(one['file_name'] == f'{one["id"]}.png' for one in listed)


def test_bad_images_are_named_and_the_rest_goes_on(predict, images, tmp_path):
    first, second, *_ = sorted(images.glob('*.png'))
    first.write_text('oops')
    second.write_bytes(second.read_bytes()[:100])
    status, text, err = predict(images, '--no_pictures', '--batch_size=2')
    assert status == 3
    assert '7 images' in text and '2 of 9 files could not be read' in text
    assert f'{first}: not an image' in err and f'{second}: cut off' in err
    assert not list((tmp_path / 'out').rglob('*.jpg'))
    assert len(content(tmp_path / 'out')[1]['images']) == 7


@pytest.mark.parametrize('width', [20_000, 70_000])
def test_a_strip_is_drawn_as_large_as_a_jpeg_file_may_be(width):
    boxes = np.array([[0, 0, width, 4]], np.float32)
    one = np.ones(1, np.float32), np.zeros(1, np.int32)
    detections = ImageDetections(boxes, *one, ('red',), (4, width))
    drawn = draw_detections(np.zeros((4, width, 3), np.uint8), detections)
    assert drawn.shape[1] == min(width, 65_500)
    assert encode_image(drawn, '.jpg')


def test_only_some_classes_above_a_score(predict, images, tmp_path):
    every = '--no_pictures', '--batch_size=2', '--score_thr=0'
    predict(images, *every)
    rows = content(tmp_path / 'out')[2]
    middle = sorted(float(row['score']) for row in rows)[len(rows) // 2] + 5e-5
    wanted = [
        row
        for row in rows
        if row['class'] in ('red', 'blue') and float(row['score']) >= middle
    ]
    flags = '--classes=red,blue', f'--score_thr={middle}'
    predict(images, *every[:2], *flags)
    assert content(tmp_path / 'out')[2] == wanted


def test_a_video(predict, images, tmp_path, small_run):
    """Every frame is looked at, in order; a small one is enlarged."""
    video, code = tmp_path / 'clip.avi', cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(video), code, 10.0, (80, 40))
    for value in range(5):
        writer.write(np.full((40, 80, 3), 40 * value, np.uint8))
    writer.release()
    broken = tmp_path / 'broken.mp4'
    broken.write_text('oops')
    status, text, err = predict(video, broken, '--score_thr=0', '--batch_size=2')
    assert status == 3 and '5 images' in text
    assert f'{broken}: not a video' in err
    listed = content(tmp_path / 'out')[1]['images']
    assert [one['frame'] for one in listed] == [0, 1, 2, 3, 4]
    capture = cv2.VideoCapture(str(tmp_path / 'out' / 'pictures' / 'clip.mp4'))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    brightness = []
    while (frame := capture.read())[0]:
        assert frame[1].shape == (320, 640, 3)
        brightness.append(np.median(frame[1][-40:]))
    assert len(brightness) == 5 and sorted(brightness) == brightness


def test_test_time_augmentation_and_overrides_with_spaces(predict, images, tmp_path):
    tta = "--config.test_cfg.tta={'img_scales': ((64, 32),), 'flip': False}"
    flags = '--score_thr=0', '--batch_size=2', '--no_pictures'
    predict(images, *flags)
    plain = content(tmp_path / 'out')
    status, text, _ = predict(tta, *flags, '--tta', images)
    assert status == 0 and 'scales ((64, 32),)' in text
    assert content(tmp_path / 'out') == plain


@pytest.mark.parametrize(
    ('arguments', 'parts'),
    [
        (('EMPTY',), ('no images in', 'empty', '.jpg')),
        (('EMPTY/none.jpg',), ('no image or folder at',)),
        (('EMPTY/*.jpg',), ('no file matches',)),
        (('IMAGES', '--classes=red,gren'), ("'gren'", "did you mean 'green'?")),
        (('IMAGES', '--device=tpu'), ('no tpu',)),
        (('IMAGES', '--config.test_cfg.scor_thr=1'), ('test_cfg.scor_thr',)),
        (
            ('IMAGES', '--config.data.val.pipeline.img_scale=(96, 48)'),
            ('data.test says how images are prepared; set --config.data.test.',),
        ),
    ],
)
def test_what_is_refused(predict, images, tmp_path, arguments, parts):
    (tmp_path / 'empty').mkdir()
    words = [
        word.replace('EMPTY', str(tmp_path / 'empty')).replace('IMAGES', str(images))
        for word in arguments
    ]
    status, _, err = predict(*words)
    assert status == 1 and len(err.splitlines()) == 1
    for part in parts:
        assert part in err
    assert not (tmp_path / 'out').exists()


def test_no_image_can_be_read(predict, tmp_path):
    file = tmp_path / 'notes.txt'
    file.write_text('oops')
    status, _, err = predict(file)
    assert status == 1 and 'none of 1 files can be read' in err


def test_no_checkpoint(predict, images, small_run, tmp_path):
    (tmp_path / 'run').mkdir()
    shutil.copy(small_run.workdir / 'config.json', tmp_path / 'run')
    status, _, err = predict(images, workdir=tmp_path / 'run')
    assert status == 1 and 'no checkpoints in' in err


def test_missing_and_unknown_flags(predict, images):
    assert predict()[0] == 2
    assert predict(images, '--treshold=1')[0] == 2


# The list of files -------------------------------------------------------------------


def test_names_are_unique_and_results_are_not_looked_at(tmp_path):
    for name in ('a/x.png', 'a/x.jpg', 'b/x.png', 'a/out/x.jpg', 'a/notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inputs = [str(tmp_path / 'a'), str(tmp_path / 'b/*'), str(tmp_path / 'a/x.png')]
    found = find_files(inputs, tmp_path / 'a' / 'out')
    assert [(str(i.path.relative_to(tmp_path)), i.name) for i in found] == [
        ('a/x.jpg', 'x.jpg'),
        ('a/x.png', 'x_2.jpg'),
        ('b/x.png', 'x_3.jpg'),
    ]


@pytest.mark.parametrize(
    'name',
    [
        'a/0.png',
        './a/0.png',
        'a//0.png',
        '../b/../a/0.png',
        'a\\0.png',
        '.\\a\\0.png',
        'ABSOLUTE/a/0.png',
    ],
)
def test_ids_are_found_by_path_and_not_by_text(tmp_path, monkeypatch, name):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / '0.png').touch()
    (tmp_path / 'link').symlink_to(tmp_path / 'a')
    file = tmp_path / 'x.json'
    name = name.replace('ABSOLUTE', str(tmp_path))
    images = [{'id': 5, 'file_name': name}, {'id': 6, 'file_name': 'b/0.png'}]
    categories = [{'id': 3, 'name': 'cell'}]
    file.write_text(json.dumps({'images': images, 'categories': categories}))
    for folder, word in (('a', '.'), ('.', 'a'), ('a', '../a/0.png'), ('.', 'link')):
        monkeypatch.chdir(tmp_path / folder)
        found = find_files([word], tmp_path / 'out')
        ids = choose_ids(['cell'], found, str(file))
        assert list(ids.images.values()) == [5]


# What the decoder reads, by its usual names and without one.
PNG = b'\x89PNG\r\n\x1a\n'
READ = ('a.jfif', 'b.jpe', 'c.JPE', 'd.dib', 'e.JPG', 'f.WebP', 'deep/g.Tif')


def test_a_folder_is_searched_for_all_that_can_be_read(tmp_path):
    folder = tmp_path / 'x'
    for name in (*READ, 'no_suffix', 'text.txt', 'two.TXT', 'c.heic'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG if name == 'no_suffix' else b'BM oops')
    for name in ('._a.jpg', '__MACOSX/a.jpg', '.DS_Store', 'deep/._b.jpg'):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'h.png').touch()
    (folder / 'link').symlink_to(elsewhere)
    (folder / 'deep' / 'circle').symlink_to(folder)
    told = []
    found = find_files([str(folder)], tmp_path / 'out', told.append)
    names = {str(item.path.relative_to(folder)) for item in found}
    assert names == {*READ, 'no_suffix', 'link/h.png'}
    assert len(told) == 1 and f'{folder}: passed over' in told[0]
    assert told[0].endswith(': 2 .txt, 1 .heic')


def test_what_a_folder_has_in_place_of_images(predict, tmp_path):
    folder = tmp_path / 'x'
    folder.mkdir()
    (folder / 'a.heic').touch()
    status, _, err = predict(folder)
    assert status == 1 and f'no images in {folder}' in err
    assert 'passed over: 1 .heic' in err


def test_files_that_are_passed_over_are_counted(predict, images):
    (images / 'notes.txt').touch()
    status, text, _ = predict(images, '--no_pictures', '--batch_size=2')
    assert (
        status == 0
        and 'passed over, since they are no images: 1 .txt' in text
        and '9 images' in text
    )
