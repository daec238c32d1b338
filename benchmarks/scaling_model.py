"""Step time of the R50 recipe against host count: arithmetic, not a measurement.

    python benchmarks/scaling_model.py --preset=h100
    python benchmarks/scaling_model.py --preset=tpu-v5e --images_per_s_device=40

A step takes max(compute + all-reduce, input):

- compute: images per device x operations per image / (peak x utilization); or
  measured, with --images_per_s_device.
- all-reduce: gradients in float32, one ring over the devices of a host, then one over
  hosts: 2 (n-1)/n x bytes / bandwidth + 2 (n-1) x latency each. A second, tiny one (the
  normalizers of the loss) costs latency only and overlaps with nothing.
- input: images per host / (its cores x images per second and core). Batches are
  loaded ahead, so input costs nothing until it is the slowest part.

Not included: waiting for the slowest host, copies from host to device (3 MB per image),
evaluation, saving, compiling. A real pod is slower. Measure one host first, and pass
its results as flags.
"""

import argparse
import dataclasses
import math
import sys

PRESETS = {
    # 989 TFLOPS of TF32 are with sparsity; NVLink's 900 GB/s count both directions:
    # https://www.nvidia.com/en-us/data-center/h100/
    # 8 network cards of 400 Gb/s, 112 cores:
    # https://docs.nvidia.com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest/core-components.html
    'h100': {
        'devices_per_host': 8,
        'peak_tflops': 494.5,
        'link_gb_s': 450,
        'host_gb_s': 400,
        'hop_us': 5,
        'cores_per_host': 112,
        'hosts': 256,
    },
    # float32 is multiplied in bfloat16 unless the matmul precision is raised. One link
    # in one direction is counted, though a chip has six. 6 links of 50 GB/s:
    # https://arxiv.org/abs/2304.01433
    # https://cloud.google.com/tpu/docs/v4
    # 240 virtual CPUs: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
    'tpu-v4': {
        'devices_per_host': 4,
        'peak_tflops': 275,
        'link_gb_s': 50,
        'host_gb_s': 50,
        'hop_us': 1,
        'cores_per_host': 120,
        'hosts': 256,
    },
    # 400 GB/s in both directions over 4 links; 256 chips a slice, 112 virtual CPUs:
    # https://cloud.google.com/tpu/docs/v5e
    'tpu-v5e': {
        'devices_per_host': 4,
        'peak_tflops': 197,
        'link_gb_s': 50,
        'host_gb_s': 50,
        'hop_us': 1,
        'cores_per_host': 56,
        'hosts': 64,
    },
    # 4,800 Gb/s over 6 links, 208 virtual CPUs:
    # https://cloud.google.com/tpu/docs/v5p
    'tpu-v5p': {
        'devices_per_host': 4,
        'peak_tflops': 459,
        'link_gb_s': 100,
        'host_gb_s': 100,
        'hop_us': 1,
        'cores_per_host': 104,
        'hosts': 256,
    },
}


def _flag(meaning, default=dataclasses.MISSING):
    return dataclasses.field(default=default, metadata={'help': meaning})


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """The assumptions of the model; each field is a flag of the same name."""

    devices_per_host: int = _flag('GPUs or TPU chips')
    peak_tflops: float = _flag('of a device, in the precision of its products')
    link_gb_s: float = _flag('GB/s from a device to the next in its host')
    host_gb_s: float = _flag('GB/s from a host to the next host')
    hop_us: float = _flag('microseconds for a message to the next device or host')
    cores_per_host: float = _flag('cores, not hyperthreads, that load images')
    hosts: int = _flag('last row of the table; maximum of a TPU slice')
    samples_per_gpu: int = _flag('images per (device, step), as in the config', 2)
    utilization: float = _flag('share of the peak that a step reaches: a guess', 0.2)
    images_per_s_device: float = _flag(
        'measured; 0: computed from operations and peak', 0.0
    )
    training_gflops: float = _flag(
        'an image of 800 x 1344, forward and backward', 1196.1
    )
    parameters: int = _flag('trained parameters, of 32,295,322 in total', 32_069_978)
    bytes_per_parameter: float = _flag('gradients are float32', 4)
    overlap: float = _flag('share of the all-reduce hidden by the backward pass', 0.0)
    images_per_s_core: float = _flag(
        'images per second that a core decodes and resizes', 75
    )
    images: int = _flag('per epoch; those of COCO train2017 with objects', 117_266)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            may_be_zero = field.name in ('hop_us', 'overlap', 'images_per_s_device')
            if (
                not math.isfinite(value)
                or value < 0
                or (value == 0 and not may_be_zero)
            ):
                raise ValueError(f'--{field.name}={value}: expected a positive number')
            if field.name in ('overlap', 'utilization') and value > 1:
                raise ValueError(f'--{field.name}={value}: expected a share, at most 1')

    @property
    def gradient_bytes(self) -> float:
        """The bytes that each device contributes to the all-reduce of a step."""
        return self.bytes_per_parameter * self.parameters


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table; times in seconds."""

    hosts: int
    batch: int
    compute: float
    all_reduce: float
    input: float
    steps_per_epoch: int

    @property
    def step(self) -> float:
        """Seconds per step."""
        return max(self.compute + self.all_reduce, self.input)

    @property
    def images_per_s(self) -> float:
        """Images per second of all hosts together."""
        return self.batch / self.step

    @property
    def bound(self) -> str:
        """The largest part."""
        if self.input > self.compute + self.all_reduce:
            return 'input'
        return 'compute' if self.compute >= self.all_reduce else 'all-reduce'


def ring(members: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce.

    Args:
        members: number in the ring; with one nothing is sent.
        size: bytes that each member holds.
        bandwidth: bytes per second from a member to the next.
        latency: seconds of a message to the next member.
    """
    steps = 2 * (members - 1)
    return steps / members * size / bandwidth + steps * latency


def predict(hosts: int, assumed: Assumptions) -> Row:
    """The row of the table for a number of hosts."""
    local = assumed.devices_per_host
    if assumed.images_per_s_device:
        compute = assumed.samples_per_gpu / assumed.images_per_s_device
    else:
        operations = assumed.samples_per_gpu * assumed.training_gflops * 1e9
        compute = operations / (assumed.peak_tflops * 1e12 * assumed.utilization)

    def all_reduce(size):
        hop = assumed.hop_us * 1e-6
        inside = ring(local, size, assumed.link_gb_s * 1e9, hop)
        return inside + ring(hosts, size, assumed.host_gb_s * 1e9, hop)

    exposed = (1 - assumed.overlap) * all_reduce(assumed.gradient_bytes) + all_reduce(0)
    host_batch = assumed.samples_per_gpu * local
    batch = host_batch * hosts
    return Row(
        hosts=hosts,
        batch=batch,
        compute=compute,
        all_reduce=exposed,
        input=host_batch / (assumed.cores_per_host * assumed.images_per_s_core),
        steps_per_epoch=math.ceil(assumed.images / batch),
    )


def table(assumed: Assumptions) -> list[Row]:
    """The rows for 1, 2, 4, ... hosts."""
    return [predict(2**i, assumed) for i in range(int(math.log2(assumed.hosts)) + 1)]


def format_assumptions(assumed: Assumptions, preset: str) -> str:
    """The assumptions, one per line, with what they mean."""
    lines = [
        'a model, not a measurement',
        f'assumptions (preset {preset}; change any by its flag):',
    ]
    for field in dataclasses.fields(assumed):
        value = f'{getattr(assumed, field.name):,.10g}'
        lines.append(f'  --{field.name:<20} {value:>12}  {field.metadata["help"]}')
    lines.append(f'  all-reduce of {assumed.gradient_bytes / 1e6:.1f} MB a step')
    return '\n'.join(lines)


def format_table(rows: list[Row]) -> str:
    """The table; efficiency is images per second and host, relative to one host."""
    head = (
        'hosts   batch  compute  reduce   input    step   images/s  effic.  '
        'steps/epoch   epoch  bound by'
    )
    unit = '                     ms      ms      ms      ms' + ' ' * 39 + 'min'
    lines = [head, unit]
    for row in rows:
        efficiency = row.images_per_s / row.hosts / rows[0].images_per_s
        lines.append(
            f'{row.hosts:5d} {row.batch:7d} {row.compute * 1e3:8.1f} '
            f'{row.all_reduce * 1e3:7.2f} {row.input * 1e3:7.1f} {row.step * 1e3:7.1f} '
            f'{row.images_per_s:10,.0f} {efficiency:7.1%} {row.steps_per_epoch:12d} '
            f'{row.steps_per_epoch * row.step / 60:7.2f}  {row.bound}'
        )
    return '\n'.join(lines)


def parse(arguments: list[str] | None = None) -> tuple[str, Assumptions]:
    """The name of the preset, and the assumptions with the changes by flags."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--preset', choices=sorted(PRESETS), default='h100')
    for field in dataclasses.fields(Assumptions):
        parser.add_argument(
            f'--{field.name}', type=field.type, help=field.metadata['help']
        )
    flags = vars(parser.parse_args(arguments))
    preset = flags.pop('preset')
    changed = {name: value for name, value in flags.items() if value is not None}
    try:
        return preset, Assumptions(**(PRESETS[preset] | changed))
    except ValueError as error:
        parser.error(str(error))


def main() -> int:
    """Prints the assumptions, then the table."""
    preset, assumed = parse()
    print(format_assumptions(assumed, preset))
    print()
    print(format_table(table(assumed)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
