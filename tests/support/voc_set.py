"""A small Pascal VOC data set, by the paths of its files."""

from tests.support.forms import IMAGE, voc_file, voc_object

SIZE = (50, 80)
DOG = voc_object('dog', [10, 20, 30, 15])
CAT = voc_object('cat', [0, 0, 80, 50], difficult=True)
LISTS = 'ImageSets/Main'
USUAL = {
    'Annotations/a.xml': voc_file('a.png', SIZE, [DOG, CAT]),
    'Annotations/b.xml': voc_file('b.png', SIZE, []),
    'Annotations/c.xml': voc_file('c.png', SIZE, [voc_object('owl', [1, 2, 3, 4])]),
    **{f'JPEGImages/{name}.png': IMAGE for name in 'abc'},
    f'{LISTS}/train.txt': 'a\nb\n',
    f'{LISTS}/val.txt': 'c  \n',
}
A, C = USUAL['Annotations/a.xml'], USUAL['Annotations/c.xml']
