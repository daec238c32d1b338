"""A small YOLO data set, in the usual places and in others."""

from tests.support.forms import IMAGE

YAML = 'train: images/train\nval: images/val\nnames: [cat, dog, owl]\n'
LINE = '0 0.5 0.5 0.2 0.4'  # the whole line, in an image of 80x50: 32, 15, 16, 20
USUAL = {
    'data.yaml': YAML,
    'images/train/a.png': IMAGE,
    'images/train/b.png': IMAGE,
    'images/val/c.png': IMAGE,
    'labels/train/a.txt': f'{LINE}\n2 0.1 0.1 0.2 0.2\n',
    'labels/train/b.txt': '1 0.25 0.5 0.5 1\n',
    'labels/val/c.txt': LINE,
}
IN_SPLITS = {
    'train/images/a.png': IMAGE,
    'train/labels/a.txt': LINE,
    'valid/images/c.png': IMAGE,
    'valid/labels/c.txt': LINE,
}
NEXT_TO = {
    'train/a.png': IMAGE,
    'train/a.txt': LINE,
    'valid/c.png': IMAGE,
    'valid/c.txt': LINE,
}
NAMES = 'names: [cat, dog, owl]\n'
CVAT = {
    'obj.names': 'cat\ndog\nowl\n',
    'obj.data': 'classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n',
    'train.txt': 'data/obj_train_data/a.png\n',
    'valid.txt': 'data/obj_valid_data/c.png\n',
    'obj_train_data/a.png': IMAGE,
    'obj_train_data/a.txt': LINE,
    'obj_valid_data/c.png': IMAGE,
    'obj_valid_data/c.txt': LINE,
}
LISTS = {
    'data.yaml': f'train: [one.txt, two.txt]\nval: val.txt\n{NAMES}',
    'one.txt': '\ufeff./images/a.png\r\n\r\n',
    'two.txt': 'images\\train\\b.png\n',
    'val.txt': 'images/val/c.png\n',
    'images/a.png': IMAGE,
    'labels/a.txt': LINE,
}
