"""The own forms of annotation tools: named, with the export to choose."""

import json
import struct

import pytest

from atss_jax.data.forms.find import find
from tests.data.test_coco_form import coco
from tests.support import yolo_set
from tests.support.forms import IMAGE, write_files

LABEL_STUDIO = [
    {
        'id': 1,
        'annotations': [
            {
                'id': 7,
                'result': [
                    {
                        'original_width': 80,
                        'original_height': 50,
                        'value': {
                            'x': 10.0,
                            'y': 20.0,
                            'width': 5.0,
                            'height': 4.0,
                            'rotation': 0,
                            'rectanglelabels': ['dog'],
                        },
                        'from_name': 'label',
                        'to_name': 'image',
                        'type': 'rectanglelabels',
                    }
                ],
            }
        ],
        'data': {'image': '/data/upload/1/3f2a1b4c-a.png'},
    }
]
LABEL_STUDIO_MIN = [
    {
        'image': '/data/upload/1/3f2a1b4c-a.png',
        'id': 1,
        'label': [{'x': 1, 'y': 2, 'width': 3, 'height': 4, 'rectanglelabels': ['a']}],
    }
]
LABELME = {
    'version': '5.4.1',
    'flags': {},
    'shapes': [
        {
            'label': 'dog',
            'points': [[1.0, 2.0], [30.0, 40.0]],
            'group_id': None,
            'shape_type': 'rectangle',
            'flags': {},
        }
    ],
    'imagePath': 'a.png',
    'imageData': None,
    'imageHeight': 50,
    'imageWidth': 80,
}
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>mine</name></task></meta>
  <image id="0" name="a.png" width="80" height="50">
    <box label="dog" occluded="0" xtl="1.0" ytl="2.0" xbr="30.0" ybr="40.0"></box>
  </image>
</annotations>
"""
VIA_REGION = {
    'shape_attributes': {'name': 'rect', 'x': 1, 'y': 2, 'width': 3, 'height': 4},
    'region_attributes': {'type': 'dog'},
}
VIA = {'a.png900': {'filename': 'a.png', 'size': 900, 'regions': [VIA_REGION]}}
VIA_PROJECT = {'_via_settings': {}, '_via_img_metadata': VIA, '_via_attributes': {}}
VIA_CSV = (
    'filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,'
    'region_attributes\n'
    'a.png,900,"{}",1,0,"{""name"":""rect"",""x"":1}","{}"\n'
)
CREATE_ML = [
    {
        'image': 'a.png',
        'annotations': [
            {
                'label': 'dog',
                'coordinates': {'x': 9, 'y': 9, 'width': 4, 'height': 4},
            }
        ],
    }
]
OPEN_IMAGES = (
    'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded\n'
    '000002b66c9c498e,xclick,/m/01g317,1,0.01,0.19,0.2,0.5,0\n'
)
ROBOFLOW_CSV = (
    'filename,width,height,class,xmin,ymin,xmax,ymax\na.png,80,50,dog,1,2,30,40\n'
)


def tfrecord(size):
    """A record of a `tf.train.Example` as far as its keys go, with a large image."""
    example = b'image/encoded' + b'\x01' * size + b'image/object/bbox/xmin' + b'\0' * 9
    return struct.pack('<Q', len(example)) + b'crc.' + example + b'crc.'


# By the name of a file, its content, and what the message must have.
EXPORTS = {
    'project-1-at-2026.json': (LABEL_STUDIO, ': Label Studio. In Label Studio choose'),
    'min.json': (LABEL_STUDIO_MIN, 'choose Export, and there COCO, YOLO or'),
    'a.json': (LABELME, ': labelme. Convert it with'),
    'annotations.xml': (CVAT, 'In CVAT choose Export dataset, and there COCO 1.0'),
    'via_export_json.json': (VIA, 'Export Annotations (COCO format)'),
    'via_project.json': (VIA_PROJECT, ': VGG Image Annotator (VIA). In VIA choose'),
    'via_export_csv.csv': (VIA_CSV, ': VGG Image Annotator (VIA). In VIA choose'),
    '_annotations.createml.json': (CREATE_ML, ': Create ML. In the program'),
    'train-annotations-bbox.csv': (OPEN_IMAGES, ': Open Images (CSV). Write a COCO'),
    '_annotations.csv': (ROBOFLOW_CSV, ': CSV, as for RetinaNet or from Roboflow.'),
    'retina.csv': ('b/a.JPG,1,2.5,30,40,dog\n', ': CSV, as for RetinaNet'),
    'retina_empty.csv': ('/data/a.png,,,,,\n', ': CSV, as for RetinaNet'),
    '_annotations.txt': ('b/a.jpg 1,2,30,40,0 5,6,7,8,1\n', ': text, as for Keras'),
    'x.tfrecord': (tfrecord(500_000), ': TFRecord, as for TensorFlow or from'),
}


def text_of(content):
    is_written = isinstance(content, str | bytes)
    return content if is_written else json.dumps(content, indent=2)


def message(path):
    with pytest.raises(ValueError) as caught:
        find(str(path))
    return str(caught.value)


@pytest.mark.parametrize('name', EXPORTS)
@pytest.mark.parametrize('place', ['', 'train/', 'annotations/'])
def test_an_export(tmp_path, name, place):
    """Next to images, or in a folder of a split; also the file itself."""
    content, part = EXPORTS[name]
    file = f'{place}{name}'
    write_files(tmp_path, {file: text_of(content), 'images/a.png': IMAGE})
    for path in (tmp_path, tmp_path / file):
        text = message(path)
        start = f'{tmp_path / file} has annotations in a form that is not read: '
        assert text.startswith(f'path = {str(path)!r}: {start}') and part in text


def test_other_files_are_of_no_tool(tmp_path):
    files = {
        'package.json': '{"name": "x", "data": [1]}',
        'list.json': '[1, 2]',
        'empty.json': '',
        'names.csv': 'name,age\na,1\n',
        'images.csv': 'a.png,1,2\n',
        'list.txt': 'images/a.jpg\nimages/b.jpg\n',
        'a.xml': '<note>annotations</note>',
        'x.tfrecord': b'\0' * 100,
    }
    write_files(tmp_path, files)
    assert 'found no annotations in a known form' in message(tmp_path)
    for name in files:
        assert 'found no annotations in a known form' in message(tmp_path / name)


def test_what_is_read_comes_first(tmp_path):
    files = {name: text_of(content) for name, (content, _) in EXPORTS.items()}
    write_files(tmp_path, files | {'images/a.png': IMAGE})
    write_files(tmp_path, {'train.json': coco('a.png')})
    assert find(str(tmp_path)).name == 'COCO'


def test_a_data_set_in_a_folder_comes_first(tmp_path):
    write_files(tmp_path, {'a.json': json.dumps(LABELME)})
    write_files(tmp_path / 'mine', yolo_set.USUAL)
    assert message(tmp_path).endswith(f'. Give {tmp_path}/mine instead')


def test_many_files(tmp_path):
    """One of each ending among the first files is enough."""
    files = {f'{number:03}.json': '{}' for number in range(15)}
    write_files(tmp_path, files | {'a.json': json.dumps(LABELME)})
    assert ': labelme.' in message(tmp_path)
