"""Learning rate and weight decay by parameter, mmengine's `paramwise_cfg`."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Multipliers(NamedTuple):
    """Factors on the settings of the optimizer.

    Attributes:
        lr_mult: factor on the learning rate.
        decay_mult: factor on the weight decay.
    """

    lr_mult: float = 1.0
    decay_mult: float = 1.0


@dataclasses.dataclass(frozen=True)
class ParamwiseConfig:
    """mmengine's `paramwise_cfg`; a factor that is None applies to nothing.

    Attributes:
        custom_keys: parts of parameter names, with the factors for parameters whose
            name has them; of several, the longest decides. All other factors leave
            these parameters alone. Names are mmdetection's.
        norm_decay_mult: factor on the weight decay of norms, weights and biases.
        bias_lr_mult: factor on the learning rate of biases, except those of norms and
            of the convolutions that compute the offsets of deformable ones.
        bias_decay_mult: factor on the weight decay of biases, except those of
            offsets; those of norms too if there is no `norm_decay_mult`.
        flat_decay_mult: factor on the weight decay of other parameters with one axis.
        dcn_offset_lr_mult: factor on the learning rate of the convolutions that
            compute the offsets of deformable convolutions.
    """

    custom_keys: tuple[tuple[str, Multipliers], ...] = ()
    norm_decay_mult: float | None = None
    bias_lr_mult: float | None = None
    bias_decay_mult: float | None = None
    flat_decay_mult: float | None = None
    dcn_offset_lr_mult: float | None = None

    @property
    def lr_mults(self) -> set[float]:
        """All factors on the learning rate, 1 among them."""
        by_kind = {self.bias_lr_mult, self.dcn_offset_lr_mult} - {None}
        return {1.0, *by_kind, *(factors.lr_mult for _, factors in self.custom_keys)}


def multipliers(axes: Mapping[str, int], config: ParamwiseConfig) -> dict:
    """The factors of every parameter by its name in mmdetection.

    mmengine asks whether a module is a norm. Here a module is one if its weight has a
    single axis: those of convolutions have four, those of linear layers two. The module
    `conv_offset` computes the offsets of the deformable convolution that it is in;
    DyHead's `spatial_conv_offset`, outside of its convolutions, is like any other.

    Args:
        axes: number of axes of each parameter by name.
        config: the rules.

    Source: mmengine `DefaultOptimWrapperConstructor`. None of the models has depth-wise
    convolutions or parameters that two modules share, so `dwconv_decay_mult` and
    `bypass_duplicate` would have nothing to apply to.
    """
    # As in mmengine: the longest first, and of equally long ones the first in order.
    keys = sorted(sorted(config.custom_keys), key=lambda entry: -len(entry[0]))
    chosen = {}
    for name in axes:
        custom = [factors for key, factors in keys if key in name]
        chosen[name] = custom[0] if custom else _by_kind(name, axes, config)
    return chosen


def _by_kind(name, axes, config):
    """The factors of a parameter that no custom key names."""
    module, _, leaf = name.rpartition('.')
    is_norm = axes.get(f'{module}.weight') == 1
    is_bias = leaf == 'bias'
    is_offset = _is_offset(name)
    lr_mult, decay_mult = None, None
    if is_offset:
        lr_mult = config.dcn_offset_lr_mult
    elif is_bias and not is_norm:
        lr_mult = config.bias_lr_mult
    if is_norm and config.norm_decay_mult is not None:
        decay_mult = config.norm_decay_mult
    elif is_bias and not is_offset and config.bias_decay_mult is not None:
        decay_mult = config.bias_decay_mult
    elif axes[name] == 1 and not is_offset:
        decay_mult = config.flat_decay_mult
    return Multipliers(*(1.0 if x is None else x for x in (lr_mult, decay_mult)))


def _is_offset(name):
    """Whether a parameter belongs to a convolution that computes offsets."""
    return name.split('.')[-2:-1] == ['conv_offset']


def unused_settings(names: Iterable[str], config: ParamwiseConfig) -> list[str]:
    """Settings that apply to none of the parameters: `custom_keys.norn`.

    Args:
        names: names of the parameters in mmdetection.
        config: the rules.
    """
    names = list(names)
    unused = [
        f'custom_keys.{key}'
        for key, _ in config.custom_keys
        if not any(key in name for name in names)
    ]
    if config.dcn_offset_lr_mult is not None and not any(map(_is_offset, names)):
        unused.append('dcn_offset_lr_mult')
    return unused


# As transformations -------------------------------------------------------------------


class PerParameter(NamedTuple):
    """Settings of single parameters, in the structure of all trained ones.

    Attributes:
        multipliers: a tree of `Multipliers`.
        rates: optax schedule of the learning rate by `lr_mult`.
    """

    multipliers: Any
    rates: Mapping[float, Callable]


def add_decayed_weights(
    weight_decay: float, settings: PerParameter | None
) -> optax.GradientTransformation:
    """Adds each parameter to its update, times `weight_decay` and its own factor."""
    if settings is None:
        return optax.add_decayed_weights(weight_decay)

    def add(factors, update, param):
        decay = weight_decay * factors.decay_mult
        return update + decay * param if decay else update

    return optax.stateless(
        lambda updates, params: map_parameters(add, settings, updates, params)
    )


def scale_by_learning_rate(
    rate: Callable, settings: PerParameter | None
) -> optax.GradientTransformation:
    """Multiplies each update by minus its learning rate; the state counts steps."""
    if settings is None:
        return optax.scale_by_learning_rate(rate)

    def update(updates, state, params=None):
        scales = {mult: -rate(state.count) for mult, rate in settings.rates.items()}

        def scale(factors, update):
            return jnp.asarray(scales[factors.lr_mult], update.dtype) * update

        state = optax.ScaleByScheduleState(optax.safe_increment(state.count))
        return map_parameters(scale, settings, updates), state

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), np.int32))

    return optax.GradientTransformation(init, update)


def map_parameters(
    function: Callable, settings: PerParameter | None, *trees: Any
) -> Any:
    """`function(multipliers, *leaves)` of every parameter; without settings, of 1."""
    if settings is None:
        return jax.tree.map(lambda *leaves: function(Multipliers(), *leaves), *trees)
    return jax.tree.map(
        function,
        settings.multipliers,
        *trees,
        is_leaf=lambda x: isinstance(x, Multipliers),
    )
