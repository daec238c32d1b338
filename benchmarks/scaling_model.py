"""Step time of the R50 recipe against host count: arithmetic, not a measurement.

    python benchmarks/scaling_model.py --preset=tpu-v5e
    python benchmarks/scaling_model.py --preset=tpu-v5e --compiled=step.json
    python benchmarks/scaling_model.py --preset=h100 --images_per_s_device=40

A step takes max(compute + all-reduce, input):

- compute: the larger of operations / peak and HBM traffic / its peak, divided by the
  efficiency; or measured, with --images_per_s_device.
- all-reduce: one ring over the devices of a host, then one over hosts:
  2 (n-1)/n x bytes / bandwidth + 2 (n-1) x latency for each operation. That of the
  losses' normalizers is tiny, costs latency only and overlaps with nothing.
- input: images per host / (its cores x images per second and core). Batches are
  loaded ahead, so input costs nothing until it is the slowest part.

For TPUs, operations, traffic and all-reduces are what the TPU compiler says of the
step, from the file that `atss compile --programs=train --json=FILE` writes; with its
`--code` also an estimate of the time. Those of
`benchmarks/compiled_steps.json` are used without --compiled; a preset that is not in it
takes those of another chip, as a line of the output says. --keep puts the entry of
--compiled into that file:

    atss compile atss_r50_1x --topology v5e:2x2 --programs=train --json=step.json
        --code --config.fp16="{'loss_scale': 'dynamic'}" --config.data.samples_per_gpu=8
    python benchmarks/scaling_model.py --preset=tpu-v5e --compiled=step.json --keep

Not included: waiting for the slowest host, copies from host to device (3 MB per image),
evaluation, saving, compiling. A real pod is slower. Measure one host first, and pass
its results as flags.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from benchmarks.scaling_presets import CALIBRATIONS, PRESETS  # noqa: E402

COMPILED_STEPS = ROOT / 'benchmarks' / 'compiled_steps.json'
_KEPT = (
    'topology',
    'canvas',
    'samples_per_gpu',
    'operations',
    'traffic_bytes',
    'all_reduce_bytes',
    'all_reduces',
    'estimated_seconds',
    'versions',
)


def _flag(meaning, default=dataclasses.MISSING):
    return dataclasses.field(default=default, metadata={'help': meaning})


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """The assumptions of the model; each field is a flag of the same name."""

    devices_per_host: int = _flag('GPUs or TPU chips')
    peak_tflops: float = _flag('of a device, in the precision of its products')
    hbm_gb_s: float = _flag('GB/s between a device and its memory')
    link_gb_s: float = _flag('GB/s from a device to the next in its host')
    host_gb_s: float = _flag('GB/s from a host to the next host')
    hop_us: float = _flag('microseconds for a message to the next device or host')
    cores_per_host: float = _flag('cores, not hyperthreads, that load images')
    hosts: int = _flag('last row of the table; maximum of a TPU slice')
    samples_per_gpu: int = _flag('images per (device, step), as in the config', 2)
    efficiency: float = _flag('share of the larger bound that a step reaches', 0.39)
    images_per_s_device: float = _flag('measured; 0: computed from the bounds', 0.0)
    training_gflops: float = _flag(
        'an image of 800 x 1344, forward and backward', 1205.1
    )
    traffic_gb: float = _flag('GB of memory traffic of an image', 5.375)
    all_reduce_mb: float = _flag(
        'MB; float32 gradients of 32,069,978 parameters', 128.279912
    )
    all_reduces: int = _flag('operations a step; one is of the normalizers', 2)
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
            if field.name in ('overlap', 'efficiency') and value > 1:
                raise ValueError(f'--{field.name}={value}: expected a share, at most 1')

    @property
    def bounds(self) -> dict[str, float]:
        """Least seconds of a step on a device, by what bounds it."""
        images = self.samples_per_gpu
        return {
            'matrix unit': images * self.training_gflops / self.peak_tflops / 1e3,
            'HBM': images * self.traffic_gb / self.hbm_gb_s,
        }

    @property
    def compute(self) -> float:
        """Seconds of a step on a device, without all-reduces."""
        if self.images_per_s_device:
            return self.samples_per_gpu / self.images_per_s_device
        return max(self.bounds.values()) / self.efficiency


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

    def rings(size):
        hop = assumed.hop_us * 1e-6
        inside = ring(local, size, assumed.link_gb_s * 1e9, hop)
        return inside + ring(hosts, size, assumed.host_gb_s * 1e9, hop)

    # All but that of the normalizers, which has next to no bytes.
    gradients = rings(assumed.all_reduce_mb * 1e6)
    gradients += (assumed.all_reduces - 2) * rings(0)
    exposed = (1 - assumed.overlap) * gradients + rings(0)
    host_batch = assumed.samples_per_gpu * local
    batch = host_batch * hosts
    return Row(
        hosts=hosts,
        batch=batch,
        compute=assumed.compute,
        all_reduce=exposed,
        input=host_batch / (assumed.cores_per_host * assumed.images_per_s_core),
        steps_per_epoch=math.ceil(assumed.images / batch),
    )


def table(assumed: Assumptions) -> list[Row]:
    """The rows for 1, 2, 4, ... hosts."""
    return [predict(2**i, assumed) for i in range(int(math.log2(assumed.hosts)) + 1)]


# What the compiler says --------------------------------------------------------------


def read_compiled(text: str) -> dict:
    """The entry of a training step, from the text of a file of `atss compile --json`.

    Raises:
        ValueError: it has none.
    """
    try:
        entry = json.loads(text)['train']
        return {name: entry[name] for name in _KEPT}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'no training step in it ({error!r}); expected a file of `atss compile '
            'CONFIG --programs=train --json=FILE`, for a batch that fits'
        ) from error


def chip_of(entry: dict) -> str:
    """The chip that an entry was compiled for: v5e."""
    return entry['topology'].partition(':')[0]


def of_compiled(entry: dict) -> dict[str, float]:
    """The assumptions that an entry replaces, by name."""
    images = entry['samples_per_gpu']
    return {
        'samples_per_gpu': images,
        'training_gflops': entry['operations'] / images / 1e9,
        'traffic_gb': entry['traffic_bytes'] / images / 1e9,
        'all_reduce_mb': entry['all_reduce_bytes'] / 1e6,
        'all_reduces': entry['all_reduces'],
    }


def kept_entry(preset: str) -> dict | None:
    """The compiled step for a preset: of its chip, else the first; None for GPUs."""
    if not preset.startswith('tpu-'):
        return None
    entries = json.loads(COMPILED_STEPS.read_text())
    return entries.get(preset, next(iter(entries.values())))


def keep(preset: str, entry: dict) -> None:
    """Puts an entry into the file of compiled steps.

    Raises:
        ValueError: it was compiled for another chip.
    """
    if f'tpu-{chip_of(entry)}' != preset:
        raise ValueError(f'--preset={preset}: the file is for {entry["topology"]}')
    entries = json.loads(COMPILED_STEPS.read_text()) | {preset: entry}
    ordered = {name: entries[name] for name in PRESETS if name in entries}
    COMPILED_STEPS.write_text(json.dumps(ordered, indent=1) + '\n')


def format_estimate(assumed: Assumptions, entry: dict) -> str:
    """The efficiency that the compiler's own estimate of a step amounts to."""
    seconds = entry['estimated_seconds']
    share = max(assumed.bounds.values()) / seconds
    speed = assumed.samples_per_gpu / seconds
    return (
        f'  {share:.2f}  {speed:5,.0f}  cycles that the compiler estimates, without '
        f'waiting and all-reduces: {1e3 * seconds:.1f} ms'
    )


# Printing ----------------------------------------------------------------------------


def format_assumptions(assumed: Assumptions, preset: str, entry: dict | None) -> str:
    """The assumptions, one per line, with what they mean, and the bounds."""
    lines = [
        'a model, not a measurement',
        f'assumptions (preset {preset}; change any by its flag):',
    ]
    for field in dataclasses.fields(assumed):
        value = f'{getattr(assumed, field.name):,.10g}'
        lines.append(f'  --{field.name:<20} {value:>12}  {field.metadata["help"]}')
    if entry is not None:
        versions = ', '.join(f'{k} {v}' for k, v in entry['versions'].items())
        height, width = entry['canvas']
        lines.append(
            f'  the step: compiled for {entry["topology"]}, {entry["samples_per_gpu"]} '
            f'images of {height} x {width} per chip ({versions})'
        )
        if f'tpu-{chip_of(entry)}' != preset:
            lines.append(
                f'  that is another chip: operations and traffic of its program, peaks '
                f'of {preset}'
            )
    bounds = ', '.join(f'{x} {1e3 * y:.1f} ms' for x, y in assumed.bounds.items())
    lines += [f'  bounds of a step: {bounds}', *format_calibrations(assumed)]
    is_of_this_chip = entry is not None and f'tpu-{chip_of(entry)}' == preset
    if is_of_this_chip and entry['estimated_seconds'] is not None:
        lines.append(format_estimate(assumed, entry))
    return '\n'.join(lines)


def format_calibrations(assumed: Assumptions) -> list[str]:
    """What speed each calibration gives on one device without all-reduces."""
    lines = ['calibrations of --efficiency, and images/s of a device by each:']
    for calibration in CALIBRATIONS:
        share = calibration.efficiency
        speed = assumed.samples_per_gpu / max(assumed.bounds.values()) * share
        lines.append(
            f'  {share:.2f}  {speed:5,.0f}  {calibration.what}: '
            f'{calibration.images_per_s:g} images/s'
        )
    return lines


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


@dataclasses.dataclass(frozen=True)
class Model:
    """What the flags ask for.

    Attributes:
        preset: its name.
        assumed: its numbers, with those of the compiler and the changes by flags.
        entry: what the compiler says of the step; None: nothing.
    """

    preset: str
    assumed: Assumptions
    entry: dict | None


def flags_parser() -> argparse.ArgumentParser:
    """All flags of this command."""
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
    parser.add_argument(
        '--compiled',
        type=pathlib.Path,
        metavar='FILE',
        help='file of `atss compile --json`: takes operations, traffic and all-reduces '
        'from it',
    )
    parser.add_argument(
        '--keep', action='store_true', help=f'put that into {COMPILED_STEPS.name}'
    )
    return parser


def parse(arguments: list[str] | None = None) -> Model:
    """Reads the flags."""
    parser = flags_parser()
    flags = vars(parser.parse_args(arguments))
    preset, file, kept = (flags.pop(name) for name in ('preset', 'compiled', 'keep'))
    changed = {name: value for name, value in flags.items() if value is not None}
    try:
        entry = kept_entry(preset) if file is None else _read(file)
        if kept:
            if file is None:
                raise ValueError('--keep: give --compiled too')
            keep(preset, entry)
        compiled = {} if entry is None else of_compiled(entry)
        if entry is not None and 'samples_per_gpu' in changed:
            raise ValueError(
                '--samples_per_gpu: traffic per image depends on it; compile a step '
                'for it, and give --compiled'
            )
        return Model(
            preset, Assumptions(**(PRESETS[preset] | compiled | changed)), entry
        )
    except ValueError as error:
        parser.error(str(error))


def _read(file):
    try:
        return read_compiled(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f'--compiled={file}: {error}') from error


def main() -> int:
    """Prints the assumptions, then the table."""
    model = parse()
    print(format_assumptions(model.assumed, model.preset, model.entry))
    print()
    print(format_table(table(model.assumed)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
