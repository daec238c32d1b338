"""What training and detection of every shipped config need on TPUs, by the compiler.

    python benchmarks/tpu_compile.py
    python benchmarks/tpu_compile.py --largest
    python benchmarks/tpu_compile.py --code --configs=atss_r50_1x

Needs no TPU, but `pip install 'atss-jax[tpu]'`. Each entry is a config, a topology and
a program, planned in bfloat16 by `atss compile`, with 8 images per chip or with the
largest batch that fits, in a process of its own. One takes half a minute to ten minutes
of processor time; with `--code`, which generates machine code too, up to an hour. Each
is kept in a JSON file of its own, and a run that was stopped continues where it was.
With `--again` entries are planned anew, after a change of the code: in most cases only
with the batch that did not fit and the one below.
Configs whose programs differ in numbers only, such as learning rates, share an entry.
Tables are printed at the end; `--table` prints them of what there is so far.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys

from atss_jax.commands.compile import DOES_NOT_FIT
from atss_jax.compilation.programs import largest_canvas
from atss_jax.compilation.topology import read_topology
from atss_jax.config import build_experiment, load_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'tpu_compiled'
TOPOLOGIES = ('v5e:2x2', 'v6e:2x2')
PROGRAMS = ('train', 'detect')
HALF = ('--config.fp16={"loss_scale": "dynamic"}', '--config.test_cfg.dtype=bfloat16')
SAMPLES = 8  # a TPU keeps the images of a batch in tiles of as many
UNITS = {
    'matrix_unit': 'matrix unit',
    'hbm': 'HBM',
    'links': 'links',
    'between_slices': 'network',
}
COLUMNS = (
    *('config', 'canvas', 'images per chip', 'HBM', 'operations per image'),
    *('HBM traffic per image', 'at most, by', "by the compiler's estimate"),
    *('instructions', 'compiled in'),
)


def shipped():
    """Names of the shipped configs."""
    return sorted(path.stem for path in ROOT.glob('configs/atss_*.py'))


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--out', type=pathlib.Path, default=RESULTS, help='folder of the JSON files'
    )
    parser.add_argument(
        '--configs', type=_configs, default=shipped(), help='names (default: all)'
    )
    parser.add_argument(
        '--topologies',
        type=_topologies,
        default=TOPOLOGIES,
        help='(default: %(default)s)',
    )
    parser.add_argument(
        '--programs', type=_programs, default=PROGRAMS, help='(default: %(default)s)'
    )
    parser.add_argument(
        '--largest', action='store_true', help='the largest batch, not 8 images a chip'
    )
    parser.add_argument(
        '--code', action='store_true', help="with code: the compiler's estimate of time"
    )
    parser.add_argument(
        '--again', action='store_true', help='also what has a JSON file already'
    )
    parser.add_argument('--table', action='store_true', help='plan and compile nothing')
    return parser.parse_args(arguments)


def _configs(text):
    return _known(text, shipped())


def _programs(text):
    return _known(text, PROGRAMS)


def _known(text, known):
    names = tuple(text.split(','))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(
                f'{name!r}: expected some of {", ".join(known)}'
            )
    return names


def _topologies(text):
    try:
        return tuple(str(read_topology(name)) for name in text.split(','))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def groups(configs, program):
    """Lists of those configs whose program has the same model and the same shapes."""
    found = {}
    for config in configs:
        experiment = build_experiment(load_config(config))
        canvas = largest_canvas(experiment, program)
        key = (experiment.model, canvas)
        if program == 'train':
            pipeline = experiment.data['train'].pipeline
            key += (experiment.optimizer.type, pipeline.max_boxes)
        else:
            key += (experiment.detect,)
        found.setdefault(repr(key), []).append(config)
    return list(found.values())


def file_of(config, topology, program, flags):
    """The JSON file of an entry."""
    batch = 'largest' if flags.largest else SAMPLES
    words = [config, topology, program, str(batch), *(['code'] if flags.code else [])]
    name = '_'.join(words).replace(':', '-').replace(' ', '_')
    return pathlib.Path(flags.out, f'{name}.json')


def command(path, config, topology, program, flags):
    """The words that compile an entry."""
    start = first_batch(path, program) if flags.largest else SAMPLES
    return [
        *(sys.executable, '-m', 'atss_jax', 'compile', config),
        *(f'--topology={topology}', f'--programs={program}', f'--json={path}'),
        *(*HALF, f'--config.data.samples_per_gpu={start}'),
        *(['--largest', f'--step={SAMPLES}'] if flags.largest else []),
        *(['--code'] if flags.code else []),
    ]


def first_batch(path, program):
    """The number of images that a search begins with.

    Of an entry that is there, the least that did not fit: it likely does not again, and
    its bytes lead to the one below.
    """
    if not path.exists():
        return SAMPLES
    result = json.loads(path.read_text())[program]
    return result['too_many'] or result['samples_per_gpu']


def row(configs, result):
    """The cells of an entry; empty where a planned program has nothing to say."""
    name = ', '.join(configs)
    if 'program' not in result:
        nothing = 'not one image fits'
        if result['too_many'] > 1:
            nothing = 'no batch that was tried fits'
        return [name, nothing, *[''] * (len(COLUMNS) - 2)]
    samples, bounds = result['samples_per_gpu'], result['bounds_seconds']
    bound = max((x for x in bounds if bounds[x] is not None), key=bounds.get)
    height, width = result['canvas']
    traffic = result['traffic_bytes'] - result['traffic_by_kind']['prefetches']
    too_many, has_code = result['too_many'], result['has_code']
    estimate = f'{samples / result["estimated_seconds"]:,.0f}' if has_code else ''
    return [
        name,
        f'{height} x {width}',
        str(samples) if too_many is None else f'{samples} ({too_many} do not fit)',
        f'{result["memory_bytes"]["total"] / 2**30:.1f} GiB',
        f'{result["operations"] / samples / 1e12:.2f} T',
        f'{traffic / samples / 1e9:.2f} GB',
        f'{samples / bounds[bound]:,.0f} images/s, {UNITS[bound]}',
        estimate and f'{estimate} images/s',
        f'{result["instructions"]:,}',
        f'{result["compile_cpu_seconds"]:,.0f} s' if has_code else '',
    ]


def format_table(rows):
    """The table in Markdown, of lists of cells; without columns that are empty."""
    filled = [place for place in range(len(COLUMNS)) if any(row[place] for row in rows)]
    lines = [COLUMNS, ['---'] * len(COLUMNS), *rows]
    return '\n'.join(
        f'| {" | ".join(cells[place] for place in filled)} |' for cells in lines
    )


def entries(flags):
    """Topology, program, configs and JSON file of each entry."""
    by_program = {program: groups(flags.configs, program) for program in flags.programs}
    for topology, program in itertools.product(flags.topologies, flags.programs):
        for configs in by_program[program]:
            path = file_of(configs[0], topology, program, flags)
            yield topology, program, configs, path.absolute()


def compile_entry(topology, program, configs, path, flags):
    """Writes the JSON file of an entry; gives whether the compiler did its work."""
    print(configs[0], topology, program, file=sys.stderr, flush=True)
    words = command(path, configs[0], topology, program, flags)
    with path.with_suffix('.txt').open('w') as log:
        done = subprocess.run(words, cwd=ROOT, stdout=log, stderr=log, check=False)
    return done.returncode in (0, DOES_NOT_FIT)


def format_tables(all_entries):
    """A table for each program and topology, of those entries that have a file."""
    rows = {}
    for topology, program, configs, path in all_entries:
        if path.exists():
            result = json.loads(path.read_text())[program]
            rows.setdefault((program, topology), []).append(row(configs, result))
    return '\n\n'.join(
        f'**{program}, {topology}**\n\n{format_table(cells)}'
        for (program, topology), cells in rows.items()
    )


def main():
    """Plans or compiles what is missing, then prints the tables."""
    flags = parse()
    flags.out.mkdir(parents=True, exist_ok=True)
    all_entries = list(entries(flags))
    failed = 0
    for entry in all_entries:
        if not flags.table and (flags.again or not entry[-1].exists()):
            failed += not compile_entry(*entry, flags)
    print(format_tables(all_entries))
    if failed:
        print(f'{failed} entries failed: see {flags.out}/*.txt', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
