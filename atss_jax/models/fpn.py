"""Feature pyramid network, with mmdetection's ways to add levels on top."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from atss_jax.models.initializers import XAVIER
from atss_jax.models.layers import ConvModule
from atss_jax.models.region import halve


class FPN(nn.Module):
    """Lateral 1x1 and output 3x3 convolutions, top down; then extra levels.

    Source: arXiv 1612.03144; mmdet `models/necks/fpn.py`.

    Attributes:
        in_channels: channels of the backbone's outputs; checked against the inputs.
        out_channels: channels of every output.
        start_level: first backbone output that is used.
        add_extra_convs: False (levels above by max pooling at stride 2), or the source
            of stride-2 convolutions: 'on_input' (True means the same), 'on_lateral',
            'on_output'.
        num_outs: number of output levels.
    """

    in_channels: tuple[int, ...] = (256, 512, 1024, 2048)
    out_channels: int = 256
    start_level: int = 1
    add_extra_convs: bool | str = 'on_output'
    num_outs: int = 5

    @nn.compact
    def __call__(
        self,
        inputs: tuple[Float[Array, 'B _h _w _c'], ...],
        sizes: list[Int[Array, 'B 2']],
    ) -> tuple[Float[Array, 'B _h _w D'], ...]:
        """Features of `num_outs` levels; `sizes`: the valid size of each input."""
        channels = tuple(x.shape[-1] for x in inputs)
        if channels != tuple(self.in_channels):
            raise ValueError(
                f'model.neck.in_channels = {tuple(self.in_channels)}, but the backbone '
                f'gives {channels}'
            )
        inputs, sizes = inputs[self.start_level :], list(sizes[self.start_level :])
        laterals = [
            self._conv(f'lateral_convs_{i}', 1)(x, size)
            for i, (x, size) in enumerate(zip(inputs, sizes, strict=True))
        ]
        for i in range(len(laterals) - 1, 0, -1):
            up = laterals[i].repeat(2, axis=1).repeat(2, axis=2)
            laterals[i - 1] = laterals[i - 1] + up
        outputs = [
            self._conv(f'fpn_convs_{i}', 3)(x, size)
            for i, (x, size) in enumerate(zip(laterals, sizes, strict=True))
        ]
        self._add_levels(outputs, inputs[-1], laterals[-1], sizes[-1])
        return tuple(outputs[: self.num_outs])

    def _conv(self, name, kernel_size, stride=1):
        return ConvModule(
            self.out_channels, kernel_size, stride, kernel_init=XAVIER, name=name
        )

    def _add_levels(self, outputs, top_input, top_lateral, size):
        """Appends levels to `outputs` until there are `num_outs`."""
        if not self.add_extra_convs:
            while len(outputs) < self.num_outs:
                outputs.append(outputs[-1][:, ::2, ::2])
            return
        sources = {
            True: top_input,
            'on_input': top_input,
            'on_lateral': top_lateral,
            'on_output': outputs[-1],
        }
        x = sources[self.add_extra_convs]
        while len(outputs) < self.num_outs:
            x = self._conv(f'fpn_convs_{len(outputs)}', 3, stride=2)(x, size)
            size = halve(size)
            outputs.append(x)
