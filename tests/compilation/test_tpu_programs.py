"""Real programs, compiled by libtpu on this machine's CPU."""

import collections
import json
import math

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from atss_jax.compilation.chips import CHIPS
from atss_jax.compilation.compiled import OutOfMemory, compile_program, without_cache
from atss_jax.compilation.hlo import parse
from atss_jax.compilation.planned import plan_program
from atss_jax.compilation.programs import (
    PROGRAMS,
    largest_canvas,
    lowered,
    trained_bytes,
)
from atss_jax.compilation.topology import mesh_of, read_topology
from atss_jax.compilation.traffic import traffic
from atss_jax.config import build_experiment
from atss_jax.distributed import devices
from atss_jax.models.preprocess import Normalizer
from atss_jax.models.stem import stem
from atss_jax.models.window_attention import ShiftWindowMSA
from tests.support.tpu import SHARED, SMALL, small_config

pytestmark = pytest.mark.tpu
pytest.importorskip('libtpu', reason='make test-tpu installs it')

# Loss, its three parts, and the two normalizers of the losses, in float32.
_SCALARS = 6 * 4


@pytest.fixture(scope='module', autouse=True)
def no_cache():
    """Each program is compiled here: what a cache has of it for TPUs cannot be read."""
    with without_cache():
        yield


@pytest.fixture(scope='module')
def experiment():
    return build_experiment(small_config())


@pytest.fixture(scope='module')
def compiled(experiment):
    """Compiles a program for a topology once."""
    kept = {}

    def compile_for(name, program):
        if (name, program) not in kept:
            topology = read_topology(name)
            kept[name, program] = compile_program(program, experiment, topology)
        return kept[name, program]

    return compile_for


def check_figures(result, chips):
    assert result.topology.chips == chips
    assert result.memory.arguments > 0 and result.memory.code > 0
    assert 0 < result.memory.total < result.topology.chip.hbm
    assert result.operations > 1e8
    assert result.traffic.size > 1e6 and result.traffic.instructions > 100
    assert result.bounds.matrix_unit > 0 and result.bounds.hbm > 0


def test_training(compiled, experiment):
    result = compiled('v5e:2x2', 'train')
    check_figures(result, 4)
    # The state is updated in place.
    trained = trained_bytes(experiment)
    assert result.memory.aliased > 2 * trained > 20 * result.memory.outputs
    assert sum(result.traffic.all_reduces) == trained - SHARED + _SCALARS
    assert result.bounds.links > 0 and result.bounds.between_slices == 0
    modules = result.traffic.by_module()
    assert 'backbone/layer2_0 (backward)' in modules
    assert 'bbox_head/cls_convs_0' in modules


def test_training_on_several_slices(compiled, experiment):
    """Large gradients are scattered within a slice, and each chip sends its share."""
    result = compiled('v5e:2x2 x2', 'train')
    check_figures(result, 8)
    least = trained_bytes(experiment) - SHARED
    # With the padding that an equal division over chips needs.
    assert least <= sum(result.traffic.all_reduces) < 1.5 * least
    assert least / 4 <= sum(result.traffic.between_slices) < 1.5 * least
    assert result.bounds.between_slices > 0


def test_detection_with_nms(compiled):
    result = compiled('v5e:2x2', 'detect')
    check_figures(result, 4)
    assert result.traffic.all_reduces == () and result.bounds.links == 0
    assert any(
        file.endswith('detection/nms.py') for file in parse(result.text).files.values()
    )


@pytest.mark.parametrize(
    ('topology', 'program'),
    [('v5e:2x2', 'train'), ('v5e:2x2', 'detect'), ('v5e:2x2 x2', 'train')],
)
def test_a_planned_program_is_the_compiled_one(compiled, experiment, topology, program):
    whole = compiled(topology, program)
    planned = plan_program(program, experiment, whole.topology)
    assert whole.has_code and not planned.has_code
    # What goes between slices gets a few additions of single numbers with its code.
    tolerance = 1e-6 if whole.topology.slices > 1 else 0
    assert planned.operations == pytest.approx(whole.operations, rel=tolerance, abs=0)
    assert planned.traffic.instructions == whole.traffic.instructions
    assert planned.traffic.by_module() == whole.traffic.by_module()
    assert planned.traffic.by_kind() == whole.traffic.by_kind()
    assert planned.traffic.all_reduces == whole.traffic.all_reduces
    assert planned.traffic.between_slices == whole.traffic.between_slices
    assert planned.bounds == pytest.approx(whole.bounds, rel=tolerance, abs=0)
    ours, theirs = planned.memory, whole.memory
    for kind in ('arguments', 'outputs', 'aliased'):
        assert getattr(ours, kind) == getattr(theirs, kind)
    # Some temporaries come with the code, and are reckoned as part of it.
    assert ours.temporaries <= theirs.temporaries
    assert theirs.total < ours.total < 4 * theirs.total
    assert planned.cpu_seconds < whole.cpu_seconds
    assert planned.estimated_seconds is None and whole.estimated_seconds > 0


@pytest.mark.parametrize('name', ['v4:2x2x1', 'v5p:2x2x2', 'v6e:1x1'])
def test_other_chips_plan_too(experiment, name):
    planned = plan_program('train', experiment, read_topology(name))
    assert not planned.has_code
    # Both normalizers and the gradients, unless there is nobody to talk to.
    assert len(planned.traffic.all_reduces) == (0 if name == 'v6e:1x1' else 2)
    assert planned.memory.aliased > 2 * trained_bytes(experiment)


def opcodes_of_the_model(text):
    """How often each operation occurs in the detector, in fusions too."""
    return collections.Counter(
        instruction.opcode
        for computation in parse(text).computations.values()
        for instruction in computation.instructions.values()
        if 'ATSS' in instruction.op_name
    )


@pytest.mark.parametrize('program', PROGRAMS)
def test_no_algorithm_of_cpus_is_in_it(compiled, program):
    """Nothing but convolutions where a program for CPUs gathers windows."""
    counts = opcodes_of_the_model(compiled('v5e:2x2', program).text)
    assert counts['convolution'] > 10 and not counts['gather']


def test_a_program_for_cpus_gathers(experiment):
    """What the test above looks for is there in a program for CPUs."""
    mesh = devices.device_mesh(jax.local_devices(backend='cpu')[:1])
    canvas = largest_canvas(experiment, 'train')
    compiled = lowered('train', experiment, mesh, canvas, 1).compile()
    assert opcodes_of_the_model(compiled.as_text())['gather'] > 0


def test_the_stem_moves_little():
    """480 bytes for each pixel are what 12 channels in rows of 128 numbers take."""
    everywhere = NamedSharding(mesh_of(read_topology('v5e:1x1')), PartitionSpec())
    pixels = 8 * 800 * 1344

    def function(images, sizes, kernel, *stored):
        x = Normalizer()(images, sizes).astype('bfloat16')
        return stem(x, sizes, kernel, stored).astype('float32').sum((1, 2))

    shapes = {
        'uint8': [(8, 800, 1344, 3)],
        'int32': [(8, 2)],
        'float32': [(7, 7, 3, 64), *3 * [(64,)]],
    }
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)
        for dtype, of_type in shapes.items()
        for shape in of_type
    ]
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert traffic(parse(text)).size < 160 * pixels


def test_window_attention_moves_little():
    """Logits stay on the chip; those of all windows have 16 times the input's bytes.

    Forward and backward together move 22 times the input's bytes: queries, keys and
    values have three of them. With all windows at once it would be 390 times.
    """
    everywhere = NamedSharding(mesh_of(read_topology('v5e:1x1')), PartitionSpec())
    block = ShiftWindowMSA(256, 8, 12, shift=6)
    image = 1, 168, 252, 256

    def of(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    x, size = of(image, 'bfloat16'), of((1, 2), 'int32')
    variables = jax.eval_shape(block.init, jax.random.key(0), x, size)
    variables = jax.tree.map(lambda leaf: of(leaf.shape, leaf.dtype), variables)

    def loss(variables, x, size):
        return block.apply(variables, x, size).astype('float32').sum()

    gradient = jax.jit(jax.grad(loss, (0, 1))).lower(variables, x, size)
    moved = traffic(parse(gradient.compile().as_text())).size
    assert moved < 30 * 2 * math.prod(image)


def test_jax_still_computes_here():
    mesh_of(read_topology('v5e:2x2'))
    assert jax.default_backend() == 'cpu' and float(jax.numpy.ones(3).sum()) == 3


@pytest.mark.parametrize('code', [False, True])
def test_the_command(call, tmp_path, code):
    config = tmp_path / 'small.py'
    config.write_text(
        'from atss_jax.config import load_config\n\n\n'
        f'def get_config():\n    return load_config("atss_r50_1x", {SMALL!r})\n'
    )
    result = call(
        *('atss', 'compile', config, '--topology', 'v6e:1x1', '--programs=detect'),
        *('--config.data.samples_per_gpu=1', f'--json={tmp_path}/numbers.json'),
        *(f'--hlo={tmp_path}', *(['--code'] if code else [])),
    )
    assert result.status == 0, result.err
    heading = 'detect on v6e:1x1 (1 chip), 1 image of 128x128 per chip: fits'
    assert result.out.startswith(heading)
    assert 'nothing was run or measured' in result.out
    numbers = json.loads((tmp_path / 'numbers.json').read_text())['detect']
    assert numbers['samples_per_gpu'] == 1 and numbers['chips'] == 1
    assert numbers['has_code'] == code == ("compiler's estimate" in result.out)
    assert numbers['tried'] == {'1': numbers['memory_bytes']['total']}
    text = (tmp_path / 'detect_1_v6e_1x1.txt').read_text()
    assert parse(text).entry.instructions


def test_too_large_images_are_refused_with_what_they_need(experiment):
    """Found before anything is compiled in earnest: two images of 5.6 GB alone."""
    topology = read_topology('v5e:2x2')
    with pytest.raises(OutOfMemory, match=r'do not fit .* of 15.75 GiB') as caught:
        compile_program('detect', experiment, topology, (43008, 43520), 4)
    assert caught.value.needed > topology.chip.hbm


@pytest.mark.parametrize('chip', CHIPS.values(), ids=CHIPS)
def test_every_chip_from_its_smallest_slice_to_its_largest(chip):
    """One mean over all chips; on the smallest slice without any chip to talk to."""
    for shape in (chip.shapes[0], chip.shapes[-1]):
        topology = read_topology(f'{chip.name}:{shape}')
        mesh = mesh_of(topology)
        mean = devices.map_over_devices(
            lambda scale, batch: jax.lax.pmean(scale * batch.sum(0), 'batch'),
            'shard_map',
            mesh=mesh,
        )
        rows = NamedSharding(mesh, PartitionSpec('batch'))
        batch = jax.ShapeDtypeStruct((topology.chips, 300), 'float32', sharding=rows)
        everywhere = NamedSharding(mesh, PartitionSpec())
        scale = jax.ShapeDtypeStruct((300,), 'float32', sharding=everywhere)
        text = mean.lower(scale, batch).compile().as_text()
        expected = (1200,) if topology.chips > 1 else ()
        assert traffic(parse(text)).all_reduces == expected, topology
