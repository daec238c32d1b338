"""Least times of a program on its chips, from what it computes and moves."""

from typing import NamedTuple

from atss_jax.compilation.topology import Topology
from atss_jax.compilation.traffic import Traffic


class Bounds(NamedTuple):
    """Seconds that one run of a program takes at least; each bound holds alone.

    Attributes:
        matrix_unit: for all its operations at the peak of a chip in bfloat16.
        hbm: for all bytes that it reads and writes, at the peak of HBM.
        links: for its all-reduces over the links within each slice.
        between_slices: for its all-reduces between slices; 0.0 of a single slice; None:
            the speed of that network is not published for this chip.
    """

    matrix_unit: float
    hbm: float
    links: float
    between_slices: float | None

    @property
    def least(self) -> float:
        """The largest of the bounds, in seconds."""
        return max(bound for bound in self if bound is not None)


def bounds(topology: Topology, operations: float, traffic: Traffic) -> Bounds:
    """The bounds of a program.

    Every algorithm that adds up B bytes over n members sends at least 2 (n-1)/n B from
    each member. Within a slice that is over all links of a chip in a corner at once,
    between slices from each chip for what the program sends there.

    Args:
        topology: the chips.
        operations: floating-point operations of one chip.
        traffic: what one chip moves.
    """
    chip, slices = topology.chip, topology.slices
    members = topology.chips // slices
    reduced = sum(traffic.all_reduces)
    links = topology.fewest_links * chip.link_per_s
    between = 0.0
    if slices > 1:
        speed = chip.slice_per_s
        sent = _sent(slices, sum(traffic.between_slices))
        between = None if speed is None else sent / speed
    return Bounds(
        matrix_unit=operations / chip.peak,
        hbm=traffic.size / chip.hbm_per_s,
        links=_sent(members, reduced) / links if links else 0.0,
        between_slices=between,
    )


def _sent(members, size):
    """Bytes that each member sends at least in an all-reduce."""
    return 2 * (members - 1) / members * size
