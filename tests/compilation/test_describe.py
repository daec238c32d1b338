"""The text of `atss compile`."""

import dataclasses

from atss_jax.compilation.bounds import Bounds
from atss_jax.compilation.compiled import Compiled, Memory
from atss_jax.compilation.describe import describe_search
from atss_jax.compilation.hlo import Instruction
from atss_jax.compilation.search import Search
from atss_jax.compilation.topology import read_topology
from atss_jax.compilation.traffic import Moved, Traffic

GIB = 2**30
COMPILED = Compiled(
    program='train',
    topology=read_topology('v5e:2x2'),
    canvas=(800, 1344),
    samples=6,
    memory=Memory(GIB, GIB // 4, 6 * GIB, GIB // 2, 3 * GIB),
    operations=7.2e12,
    traffic=Traffic((), 8858, (128_000_000, 8), (), 1),
    bounds=Bounds(0.036, 0.048, 0.002, 0.0),
    seconds=1200.4,
    cpu_seconds=880.1,
    text='',
)


def test_a_program_that_fits():
    lines = describe_search('train', 6, Search(COMPILED, {6: GIB}, None)).splitlines()
    assert lines[0] == (
        'train on v5e:2x2 (4 chips), 6 images of 800x1344 per chip: fits'
    )
    numbers = {line[:34].strip(): line[34:].strip() for line in lines}
    assert numbers['HBM of a chip'] == 'GiB' and numbers['temporaries'] == '6.00'
    assert numbers['all'] == '7.75, 48% of 16 GiB'
    assert numbers['operations of a chip, 10^9'] == '7,200.00'
    assert numbers['all-reduced, MB'] == '128.00 in 2 operations'
    assert numbers['instructions'] == '8,858'
    assert numbers['loops counted once'] == '1'
    assert (numbers['HBM'], numbers['links']) == ('48.00', '2.00')
    # 6 images on each of 4 chips in 48 ms.
    assert 'at most 500 images/s by the largest of these' in lines
    assert lines[-1] == 'compiled here in 1200 s, 880 s of processor time'


def test_a_program_that_is_planned():
    planned = dataclasses.replace(COMPILED, has_code=False)
    lines = describe_search('train', 6, Search(planned, {6: GIB}, None)).splitlines()
    numbers = {line[:34].strip(): line[34:].strip() for line in lines}
    assert numbers['code, at most about'] == '0.50' and 'code' not in numbers
    assert numbers['all'] == '7.75, 48% of 16 GiB'
    assert lines[-1] == (
        'planned here in 1200 s, 880 s of processor time; --code also generates its '
        'code'
    )


def test_the_compilers_estimate():
    """150 million cycles at the 1.5 GHz of a v5e: 6 images on 4 chips in 100 ms."""
    program = Instruction('conv', 'convolution', (), (), '', '')
    moved = Moved(program, 'convolutions', 'neck', True, 3 * 10**9, 0, 150_300_000)
    compiled = dataclasses.replace(
        COMPILED, traffic=dataclasses.replace(COMPILED.traffic, moved=(moved,))
    )
    text = describe_search('train', 6, Search(compiled, {6: GIB}, None))
    lines = text.splitlines()
    assert '240 images/s by its 150.3 million cycles at 1.50 GHz' in lines
    place = lines.index('most estimated time by part, ms')
    assert lines[place + 1].split() == ['100.00', '100%', 'neck', '(backward)']
    assert abs(compiled.estimated_seconds - 0.1) < 1e-5


def test_a_batch_that_does_not_fit():
    search = Search(COMPILED, {8: 20 * GIB, 6: 15 * GIB, 7: None}, 7)
    first, second, third, *_ = describe_search('train', 8, search).splitlines()
    assert first == (
        'train: 8 images per chip do not fit; 6 fit: the largest data.samples_per_gpu'
    )
    assert second == 'tried: 8 (20.00 GiB), 6 (15.00 GiB), 7 (too much)'
    assert third.startswith('train on v5e:2x2')


def test_a_search_that_ends_early_says_so():
    search = Search(COMPILED, {12: 20 * GIB, 6: 15 * GIB}, 12)
    assert 'samples_per_gpu of those tried' in describe_search('train', 12, search)


def test_the_largest_multiple():
    search = Search(dataclasses.replace(COMPILED, samples=16), {16: GIB}, 24, 8)
    assert describe_search('train', 8, search).splitlines()[0] == (
        'train: 16 fit: the largest data.samples_per_gpu that is a multiple of 8'
    )


def test_not_one_image_fits():
    text = describe_search('train', 1, Search(None, {1: 20 * GIB}, 1))
    assert text == 'train: not even one image per chip fits\ntried: 1 (20.00 GiB)'


def test_none_of_those_tried():
    text = describe_search('train', 64, Search(None, {64: None, 4: None}, 4))
    assert text == 'train: none of those tried fits\ntried: 64 (too much), 4 (too much)'
