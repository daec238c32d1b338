"""What Google publishes about the chips of Cloud TPU."""

import dataclasses

GIB = 2**30

_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBIC = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8')


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    Attributes:
        name: as in the names of slices.
        hbm: bytes of HBM.
        available: bytes of it that the compiler (libtpu 0.0.42) allows a program, by
            what it says when it refuses a larger one.
        peak: floating-point operations per second in bfloat16, a multiply-add being two
            of them.
        operations_per_cycle: what all matrix units of a chip do in a cycle, in the same
            way: 2 for each of their cells.
        hbm_per_s: bytes per second between HBM and the chip.
        link_per_s: bytes per second of one link to a neighbor in one direction.
        slice_per_s: bytes per second of one chip to other slices, through the data
            center's network; None: not published.
        wraps: length from which a dimension of a slice is closed to a ring; there each
            chip has two neighbors. Of three dimensions all must be multiples of it.
        shapes: shapes of a slice of up to 256 chips.
        options: what the TPU compiler must be told in addition, so that one device is
            one chip.
    """

    name: str
    hbm: int
    available: int
    peak: float
    operations_per_cycle: int
    hbm_per_s: float
    link_per_s: float
    slice_per_s: float | None
    wraps: int
    shapes: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    @property
    def clock(self) -> float:
        """Cycles per second: 1.05 GHz of a v4, 1.5 of a v5e, 1.75 of v5p and v6e."""
        return self.peak / self.operations_per_cycle


CHIPS = {
    chip.name: chip
    for chip in (
        # https://cloud.google.com/tpu/docs/v4: 275 TFLOPS, 32 GiB, 1,200 GB/s; two
        # cores of four matrix units of 128 x 128.
        # Six links of 50 GB/s: https://arxiv.org/abs/2304.01433.
        Chip(
            name='v4',
            hbm=32 * GIB,
            available=int(30.75 * GIB),
            peak=275e12,
            operations_per_cycle=8 * 2 * 128**2,
            hbm_per_s=1200e9,
            link_per_s=50e9,
            slice_per_s=None,
            wraps=4,
            shapes=_CUBIC,
            # Two cores work as one device, as they do on Cloud TPU.
            options=(('chip_config_name', 'megacore'),),
        ),
        # https://cloud.google.com/tpu/docs/v5e: 197 TFLOPS, 16 GB, 819 GB/s; 400 GB/s
        # of four links in both directions; 6.4 Tb/s of 256 chips to the data center;
        # four matrix units of 128 x 128.
        Chip(
            name='v5e',
            hbm=16 * GIB,
            available=int(15.75 * GIB),
            peak=197e12,
            operations_per_cycle=4 * 2 * 128**2,
            hbm_per_s=819e9,
            link_per_s=50e9,
            slice_per_s=6.4e12 / 8 / 256,
            wraps=16,
            shapes=_FLAT,
        ),
        # https://cloud.google.com/tpu/docs/v5p: 459 TFLOPS, 95 GiB of 96, 2,765 GB/s;
        # 1,200 GB/s of six links in both directions; 50 Gb/s a chip to the data center;
        # two cores of four matrix units of 128 x 128.
        Chip(
            name='v5p',
            hbm=96 * GIB,
            available=int(95.74 * GIB),
            peak=459e12,
            operations_per_cycle=8 * 2 * 128**2,
            hbm_per_s=2765e9,
            link_per_s=100e9,
            slice_per_s=50e9 / 8,
            wraps=4,
            shapes=_CUBIC,
        ),
        # https://cloud.google.com/tpu/docs/v6e: 918 TFLOPS, 32 GB, 1,640 GB/s (1,600 in
        # later versions of the page); 800 GB/s of four links in both directions; 25.6
        # Tb/s of 256 chips to the data center; matrix units of 256 x 256, of which
        # versions of the page count two or four: the compiler estimates large matrix
        # products as if there were four.
        Chip(
            name='v6e',
            hbm=32 * GIB,
            available=int(31.25 * GIB),
            peak=918e12,
            operations_per_cycle=4 * 2 * 256**2,
            hbm_per_s=1640e9,
            link_per_s=100e9,
            slice_per_s=25.6e12 / 8 / 256,
            wraps=16,
            shapes=_FLAT,
        ),
    )
}
"""The chips by name."""
