"""Matrix products in loops, counted by hand on a short program."""

from atss_jax.compilation.hlo import parse
from atss_jax.compilation.operations import repeated

# Ten times: a product of 8 x 16 and 16 x 32, in a fusion within a fusion; a convolution
# of 3 x 3 from 4 to 64 channels on 5 x 6 cells; in a loop of 3 within, a product of
# 2 x 16 and 16 x 7.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%inner (a: bf16[8,16], b: bf16[16,32]) -> f32[8,32] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,32]{1,0} parameter(1)
  ROOT %product = f32[8,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%outer (a.1: bf16[8,16], b.1: bf16[16,32]) -> f32[8,32] {
  %a.1 = bf16[8,16]{1,0} parameter(0)
  %b.1 = bf16[16,32]{1,0} parameter(1)
  ROOT %nested = f32[8,32]{1,0} fusion(%a.1, %b.1), kind=kOutput, calls=%inner
}

%few (s: (s32[])) -> pred[] {
  %three = s32[] constant(3)
  %s = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %lt = pred[] compare(%i, %three), direction=LT
}

%small (s.1: (s32[])) -> (s32[]) {
  %s.1 = (s32[]) parameter(0)
  %c = f32[2,16]{1,0} constant({...})
  %d = f32[16,7]{1,0} constant({...})
  %dot = f32[2,7]{1,0} dot(%c, %d), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  ROOT %t = (s32[]) tuple(%i.1)
}

%many (s.2: (s32[])) -> pred[] {
  %ten = s32[] constant(10)
  %s.2 = (s32[]) parameter(0)
  %i.2 = s32[] get-tuple-element(%s.2), index=0
  ROOT %lt.1 = pred[] compare(%i.2, %ten), direction=LT
}

%body (s.3: (s32[])) -> (s32[]) {
  %s.3 = (s32[]) parameter(0)
  %x = bf16[8,16]{1,0} constant({...})
  %w = bf16[16,32]{1,0} constant({...})
  %fused = f32[8,32]{1,0} fusion(%x, %w), kind=kOutput, calls=%outer
  %image = bf16[1,5,6,4]{3,2,1,0} constant({...})
  %kernel = bf16[3,3,4,64]{3,2,1,0} constant({...})
  %conv = bf16[1,5,6,64]{3,2,1,0} convolution(%image, %kernel), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %i.3 = s32[] get-tuple-element(%s.3), index=0
  %again = (s32[]) tuple(%i.3)
  ROOT %loop.1 = (s32[]) while(%again), condition=%few, body=%small
}

ENTRY %main (y: bf16[8,16], v: bf16[16,32]) -> (s32[]) {
  %y = bf16[8,16]{1,0} parameter(0)
  %v = bf16[16,32]{1,0} parameter(1)
  %once = f32[8,32]{1,0} fusion(%y, %v), kind=kOutput, calls=%outer
  %zero = s32[] constant(0)
  %init = (s32[]) tuple(%zero)
  ROOT %loop = (s32[]) while(%init), condition=%many, body=%body
}
"""


def test_each_run_but_the_first_counts():
    # Without the padding: 13 rows and 16 columns of kernels and cells that meet.
    product, convolution = 2 * 8 * 16 * 32, 2 * 13 * 16 * 64 * 4
    small = 2 * 2 * 16 * 7
    assert repeated(parse(PROGRAM)) == 9 * (product + convolution) + 29 * small


# What XLA for TPUs makes of 11 products of 144 x 32 and 32 x 144: zeros between the
# matrices of the first factor, so that each result has one that is not zero.
MANY = """\
HloModule jit_step, is_scheduled=true

%few (s: (s32[])) -> pred[] {
  %three = s32[] constant(3)
  %s = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %lt = pred[] compare(%i, %three), direction=LT
}

%body (s.1: (s32[])) -> (s32[]) {
  %s.1 = (s32[]) parameter(0)
  %a = bf16[11,1,144,32]{3,2,1,0} constant({...})
  %b = bf16[11,144,32,1]{2,1,3,0} constant({...})
  %products = f32[11,1,144,144]{3,2,1,0} convolution(%a, %b), \
window={size=11x1 stride=10x1 lhs_dilate=11x1}, dim_labels=01bf_0oi1->01bf
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  ROOT %t = (s32[]) tuple(%i.1)
}

ENTRY %main (z: s32[]) -> (s32[]) {
  %z = s32[] parameter(0)
  %init = (s32[]) tuple(%z)
  ROOT %loop = (s32[]) while(%init), condition=%few, body=%body
}
"""


def test_zeros_between_matrices_are_no_operations():
    assert repeated(parse(MANY)) == 2 * 2 * 11 * 144 * 144 * 32
