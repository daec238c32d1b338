"""Buffers and instructions as the text of a compiled program has them."""

import pytest

from atss_jax.compilation.hlo import Buffer, buffers, parse

# Hand-worked: the last dimensions in memory are padded to multiples of the tile.
SIZES = {
    # 2 x 5 x 130 elements in 2 x 8 x 256
    'f32[2,5,130]{2,1,0:T(8,128)}': (5200, 16384),
    # the first dimension is the one of neighboring elements: 256 x 8
    'f32[130,5]{0,1:T(8,128)}': (2600, 8192),
    # 136 x 128
    'f32[130,5]{1,0:T(8,128)}': (2600, 69632),
    # the second tile orders elements within the first: 3 x 3 x 16 x 128 of two bytes
    'bf16[3,3,12,64]{3,2,1,0:T(8,128)(2,1)}': (13824, 36864),
    # fewer dimensions than the tile has
    's32[]{:T(128)}': (4, 512),
    'pred[7]{0:T(512)}': (7, 512),
    'f32[64]{0:T(8,128)}': (256, 4096),
    # 1 x 5 x 3: no layout, no padding
    'u8[1,5,3]': (15, 15),
    's4[6]{0}': (3, 3),
}


@pytest.mark.parametrize('shape', SIZES)
def test_bytes_of_a_buffer(shape):
    (buffer,) = buffers(shape)
    assert (buffer.values, buffer.size) == SIZES[shape]


def test_a_tuple_lists_its_arrays():
    shape = '((f32[3]{0:T(128)}), /*index=1*/bf16[2,2]{1,0:T(2,128)S(1)}, u32[]{:S(2)})'
    assert buffers(shape) == (
        Buffer('f32', (3,), (0,), (128,), 0),
        Buffer('bf16', (2, 2), (1, 0), (2, 128), 1),
        Buffer('u32', (), (), (), 2),
    )


def test_an_instruction():
    module = parse(
        'HloModule m\n\n'
        'ENTRY %main (p: f32[3]) -> (f32[3], s32[]) {\n'
        '  %p = f32[3]{0:T(128)} parameter(0)\n'
        '  %c.1 = s32[]{:T(128)} constant(7)\n'
        '  ROOT %t-2 = (f32[3]{0:T(128)}, s32[]{:T(128)}) tuple(%p, %c.1), '
        'metadata={op_name="jit(f)/a[\\\'b\\\']/add" stack_frame_id=12}\n'
        '}\n'
    )
    last = list(module.entry.instructions.values())[-1]
    assert (last.name, last.opcode, last.operands) == ('t-2', 'tuple', ('p', 'c.1'))
    assert (last.op_name, last.frame) == ("jit(f)/a[\\'b\\']/add", 12)
    assert module.entry.instructions['c.1'].literal == '7'


def test_what_is_begun_has_one_name():
    """Of a planned program the text has `async-start` for `slice-start`."""
    module = parse(
        'HloModule m\n\n'
        '%async (p.1: f32[4,8]) -> f32[1,8] {\n'
        '  %p.1 = f32[4,8]{1,0} parameter(0)\n'
        '  ROOT %s = f32[1,8]{1,0:S(1)} slice(%p.1), slice={[0:1], [0:8]}\n'
        '}\n\n'
        'ENTRY %main (p: f32[4,8]) -> f32[1,8] {\n'
        '  %p = f32[4,8]{1,0} parameter(0)\n'
        '  %start = (f32[4,8]{1,0}, f32[1,8]{1,0:S(1)}, s32[]{:S(2)}) async-start(%p), '
        'calls=%async\n'
        '  ROOT %done = f32[1,8]{1,0:S(1)} async-done(%start)\n'
        '}\n'
    )
    start = module.entry.instructions['start']
    assert (start.opcode, start.operands) == ('slice-start', ('p',))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has no ENTRY'),
        ('ENTRY %e () -> f32[] {\n  %a = nonsense\n}\n', 'instruction %a'),
    ],
)
def test_what_is_no_program_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="unknown type 'odd'"):
        _ = buffers('odd[3]{0}')[0].size
