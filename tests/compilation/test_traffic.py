"""Bytes that a program moves, counted by hand on a short one."""

import pytest

from atss_jax.compilation.hlo import parse
from atss_jax.compilation.traffic import KINDS, traffic, trip_count

# What the TPU compiler writes, shortened. Bytes with padding: an image of 3 channels
# (262,144) and features of 64 (262,144), each of 4 x 16 x 16 cells of 128 lanes in two
# bytes; weights (18,432) 9 x 4 x 128 in four bytes; 1,000 gradients (4,096).
PROGRAM = """\
HloModule jit_step, is_scheduled=true

FileNames
1 "/home/me/src/atss_jax/detection/nms.py"

FunctionNames
1 "keep"

FileLocations
1 {file_name_id=1 function_name_id=1 line=5 end_line=5 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}


%fused_conv (a: bf16[4,16,16,3], b: f32[3,3,3,64]) -> bf16[4,16,16,64] {
  %a = bf16[4,16,16,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[3,3,3,64]{3,2,1,0:T(4,128)} parameter(1)
  ROOT %conv = bf16[4,16,16,64]{3,2,1,0:T(8,128)(2,1)} convolution(%a, %b)
}

%condition (s: (s32[], f32[10,8,128])) -> pred[] {
  %ten = s32[]{:T(128)} constant(10)
  %s = (s32[]{:T(128)}, f32[10,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %ten), direction=LT
}

%body (s: (s32[], f32[10,8,128])) -> (s32[], f32[10,8,128]) {
  %s.1 = (s32[]{:T(128)}, f32[10,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  %x.1 = f32[10,8,128]{2,1,0:T(8,128)} get-tuple-element(%s.1), index=1
  %row = f32[1,8,128]{2,1,0:T(8,128)S(1)} dynamic-slice(%x.1, %i.1), \
dynamic_slice_sizes={1,8,128}, metadata={op_name="jit(step)/vmap()/x" stack_frame_id=1}
  ROOT %t.1 = (s32[]{:T(128)}, f32[10,8,128]{2,1,0:T(8,128)}) tuple(%i.1, %x.1)
}

ENTRY %main (image: bf16[4,16,16,3], w: f32[3,3,3,64], g: f32[1000]) -> f32[1000] {
  %image = bf16[4,16,16,3]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %w = f32[3,3,3,64]{3,2,1,0:T(4,128)} parameter(1)
  %g = f32[1000]{0:T(1024)} parameter(2)
  %fusion = bf16[4,16,16,64]{3,2,1,0:T(8,128)(2,1)} fusion(%image, %w), kind=kOutput, \
calls=%fused_conv, metadata={op_name="jit(step)/jvp(ATSS)/backbone/conv1/jit(f)/conv"}
  %copy = bf16[4,16,16,64]{2,3,1,0:T(8,128)(2,1)} copy(%fusion), \
metadata={op_name="jit(step)/transpose(jvp(ATSS))/neck/fpn_convs_0/conv/add"}
  %copy-start = (f32[3,3,3,64]{3,2,1,0:T(4,128)S(1)}, f32[3,3,3,64]{3,2,1,0:T(4,128)}, \
u32[]{:S(2)}) copy-start(%w)
  %copy-done = f32[3,3,3,64]{3,2,1,0:T(4,128)S(1)} copy-done(%copy-start)
  %wide = f32[3,3,3,64]{3,2,1,0:T(4,128)S(1)} negate(%copy-done), \
metadata={op_name="jit(step)/jvp(ATSS)/bbox_head/cls_convs_0/gn/mul"}
  %all-reduce = f32[1000]{0:T(1024)} all-reduce(%g), replica_groups={{0,1}}, \
to_apply=%sum, metadata={op_name="jit(step)/psum"}
  %x = f32[10,8,128]{2,1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %zero = s32[]{:T(128)} constant(0)
  %init = (s32[]{:T(128)}, f32[10,8,128]{2,1,0:T(8,128)}) tuple(%zero, %x)
  %loop = (s32[]{:T(128)}, f32[10,8,128]{2,1,0:T(8,128)}) while(%init), \
condition=%condition, body=%body
  ROOT %out = f32[1000]{0:T(1024)} bitcast(%all-reduce)
}
"""
IMAGE = FEATURES = 4 * 16 * 16 * 128 * 2
WEIGHTS = 9 * 4 * 128 * 4
# 16 columns beside each other in memory take 128 places; 64 channels are whole tiles.
TRANSPOSED = 4 * 16 * 64 * 128 * 2


@pytest.fixture(scope='module')
def moved():
    return traffic(parse(PROGRAM))


def test_each_instruction(moved):
    assert {x.instruction.name: (x.read, x.written) for x in moved.moved} == {
        'fusion': (IMAGE + WEIGHTS, FEATURES),
        'copy': (FEATURES, TRANSPOSED),
        # To the chip: only the way from HBM counts, and only once.
        'copy-start': (WEIGHTS, 0),
        'all-reduce': (4096, 4096),
        # Ten times a row of 8 x 128, and the index.
        'row': (10 * (8 * 128 * 4 + 512), 0),
    }


def test_sums_by_kind(moved):
    expected = {
        'convolutions': IMAGE + WEIGHTS + FEATURES,
        'copies': FEATURES + TRANSPOSED,
        'prefetches': WEIGHTS,
        'all-reduce': 8192,
        'sorting': 0,
        'others': 46080,
    }
    assert moved.by_kind() == expected
    assert tuple(expected) == KINDS
    assert moved.size == sum(expected.values())


def test_sums_by_module(moved):
    """A copy without a name belongs to the instruction that needs it."""
    assert moved.by_module() == {
        'neck/fpn_convs_0 (backward)': FEATURES + TRANSPOSED,
        'backbone/conv1': IMAGE + WEIGHTS + FEATURES,
        'detection/nms.py': 46080,
        'bbox_head/cls_convs_0': WEIGHTS,
        'elsewhere': 8192,
    }


def test_all_reduces_count_values_without_padding(moved):
    assert moved.all_reduces == (4000,)


def test_instructions_within_fusions_do_not_count(moved):
    assert moved.instructions == 14 + 5


def test_loops(moved):
    module = parse(PROGRAM)
    loop = module.entry.instructions['loop']
    assert trip_count(module, loop) == 10 and moved.unknown_loops == 0
    known = PROGRAM.replace(
        'body=%body\n', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}\n'
    )
    module = parse(known)
    assert trip_count(module, module.entry.instructions['loop']) == 3
    # Until something is found: counted once, and said.
    endless = traffic(parse(PROGRAM.replace('direction=LT', 'direction=NE')))
    assert endless.unknown_loops == 1
    assert {x.instruction.name: x.read for x in endless.moved}['row'] == 4608


SLICES = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (g: f32[4000]) -> f32[4000] {
  %g = f32[4000]{0:T(1024)} parameter(0)
  %scatter = f32[1000]{0:T(1024)} reduce-scatter(%g), dimensions={0}, to_apply=%sum
  %token = token[] after-all()
  %send = (f32[1000]{0:T(1024)}, u32[], token[]) send(%scatter, %token), \
is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %recv = (f32[1000]{0:T(1024)}, u32[], token[]) recv(%token), is_host_transfer=true
  %send-done = token[] send-done(%send)
  %recv-done = (f32[1000]{0:T(1024)}, token[]) recv-done(%recv)
  %part = f32[1000]{0:T(1024)} get-tuple-element(%recv-done), index=0
  ROOT %gather = f32[4000]{0:T(1024)} all-gather(%part), dimensions={0}
}
"""


def test_several_slices():
    """4,000 gradients are padded to 16,384 bytes, the 1,000 of a chip to 4,096."""
    moved = traffic(parse(SLICES))
    assert moved.all_reduces == (16_000,) and moved.between_slices == (4000,)
    assert {x.instruction.name: (x.read, x.written) for x in moved.moved} == {
        'scatter': (16384, 4096),
        'send': (4096, 0),
        'recv': (0, 4096),
        'gather': (4096, 16384),
    }
    assert moved.by_kind()['all-reduce'] == moved.size


# A fusion takes image 0 of ten and replaces image 1 of ten others by its negative: each
# image has 8 x 128 numbers. The second one reads all, since it also negates all.
IN_PLACE = """\
HloModule jit_step, is_scheduled=true

%update (x: f32[10,8,128], y: f32[10,8,128], i: s32[]) -> f32[10,8,128] {
  %x.1 = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %y.1 = f32[10,8,128]{2,1,0:T(8,128)} parameter(1)
  %i.1 = s32[]{:T(128)S(6)} parameter(2)
  %image = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%x.1, %i.1, %i.1, %i.1)
  %negative = f32[1,8,128]{2,1,0:T(8,128)} negate(%image)
  %flat = f32[10,8,128]{2,1,0:T(8,128)} bitcast(%y.1)
  ROOT %new = f32[10,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%flat, %negative, \
%i.1, %i.1, %i.1)
}

%both (x: f32[10,8,128], i: s32[]) -> (f32[1,8,128], f32[10,8,128]) {
  %x.2 = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %i.2 = s32[]{:T(128)S(6)} parameter(1)
  %image.2 = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%x.2, %i.2, %i.2, %i.2)
  %all = f32[10,8,128]{2,1,0:T(8,128)} negate(%x.2)
  ROOT %results = (f32[1,8,128]{2,1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) \
tuple(%image.2, %all)
}

ENTRY %main (x: f32[10,8,128], y: f32[10,8,128], i: s32[]) -> f32[10,8,128] {
  %x = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %y = f32[10,8,128]{2,1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  %part = f32[10,8,128]{2,1,0:T(8,128)} fusion(%x, %y, %i), kind=kLoop, \
calls=%update, metadata={op_name="jit(step)/jvp(ATSS)/neck/add"}, \
backend_config={"window_config":{"estimated_cycles":"700"}}
  ROOT %whole = (f32[1,8,128]{2,1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) \
fusion(%part, %i), kind=kLoop, calls=%both, \
metadata={op_name="jit(step)/transpose(jvp(ATSS))/neck/mul"}, \
backend_config={"window_config":{"estimated_cycles":"300"}}
}
"""
IMAGE_BYTES = 8 * 128 * 4


def test_slices_within_fusions_count_as_slices():
    moved = traffic(parse(IN_PLACE))
    assert {x.instruction.name: (x.read, x.written) for x in moved.moved} == {
        'part': (IMAGE_BYTES, IMAGE_BYTES),
        'whole': (10 * IMAGE_BYTES, 11 * IMAGE_BYTES),
    }


# The root of a fusion may itself give several results, as a part of a tuple may.
SEVERAL_RESULTS = """\
HloModule jit_step, is_scheduled=true

%two (x: f32[8,128]) -> (f32[8,128], s32[8,128]) {
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %i.1 = s32[8,128]{1,0:T(8,128)} iota(), iota_dimension=1
  ROOT %sort = (f32[8,128]{1,0:T(8,128)}, s32[8,128]{1,0:T(8,128)}) sort(%x.1, %i.1), \
dimensions={1}, to_apply=%less
}

ENTRY %main (x: f32[8,128]) -> (f32[8,128], s32[8,128]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %both = (f32[8,128]{1,0:T(8,128)}, s32[8,128]{1,0:T(8,128)}) fusion(%x), \
kind=kLoop, calls=%two
}
"""


def test_a_root_with_several_results():
    (both,) = traffic(parse(SEVERAL_RESULTS)).moved
    assert (both.read, both.written) == (8 * 128 * 4, 2 * 8 * 128 * 4)


def test_estimated_cycles():
    moved = traffic(parse(IN_PLACE))
    assert moved.cycles == 1000
    assert moved.cycles_by_module() == {'neck': 700, 'neck (backward)': 300}
    assert traffic(parse(PROGRAM)).cycles == 0
    assert traffic(parse(PROGRAM)).cycles_by_module() == {}


def test_cycles_of_a_loop_count_as_often_as_it_runs():
    row = 'dynamic_slice_sizes={1,8,128}, '
    timed = PROGRAM.replace(row, f'{row}backend_config={{"estimated_cycles":"5"}}, ')
    assert traffic(parse(timed)).cycles == 10 * 5
