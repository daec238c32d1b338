"""What training and detection of every shipped config need on TPUs, by the compiler.

    python benchmarks/tpu_compile.py --out=tpu_compile
    python benchmarks/tpu_compile.py --out=tpu_compile --configs=atss_r50_1x --samples=8

Needs no TPU, but `pip install 'atss-jax[tpu]'`. Each entry is a config, a topology and
a program, compiled in bfloat16 by `atss compile` with the largest batch that fits, or
with `--samples`, in a process of its own. One takes minutes to an hour of processor
time; each is kept in a JSON file, and a run that was stopped continues where it was.
The table is printed at the end; `--table` prints it of what there is so far.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOPOLOGIES = ('v5e:2x2', 'v6e:2x2')
PROGRAMS = ('train', 'detect')
HALF = '--config.fp16={"loss_scale": "dynamic"}'


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
    parser.add_argument('--out', required=True, help='folder of the JSON files')
    parser.add_argument(
        '--configs', type=_names, default=shipped(), help='names (default: all)'
    )
    parser.add_argument(
        '--topologies', type=_names, default=TOPOLOGIES, help='(default: %(default)s)'
    )
    parser.add_argument(
        '--programs', type=_names, default=PROGRAMS, help='(default: %(default)s)'
    )
    parser.add_argument(
        '--samples', type=int, help='images per chip (default: the most that fit)'
    )
    parser.add_argument('--table', action='store_true', help='compile nothing')
    return parser.parse_args(arguments)


def _names(text):
    return tuple(text.split(','))


def file_of(folder, config, topology, program, samples):
    """The JSON file of an entry."""
    batch = 'largest' if samples is None else samples
    name = f'{config} {topology} {program} {batch}'.replace(':', '-').replace(' ', '_')
    return pathlib.Path(folder, f'{name}.json')


def command(path, config, topology, program, samples):
    """The words that compile an entry."""
    samples = (
        ['--largest']
        if samples is None
        else [f'--config.data.samples_per_gpu={samples}']
    )
    return [
        *(sys.executable, '-m', 'atss_jax', 'compile', config),
        *(f'--topology={topology}', f'--programs={program}', f'--json={path}'),
        *(HALF, *samples),
    ]


def format_table(rows):
    """The table in Markdown, of (config, result of `atss compile`)."""
    lines = [
        '| config | program | topology | images per chip | canvas | HBM '
        '| operations per image | HBM traffic per image | all-reduce '
        '| at most, per chip | bound by | instructions | compiled in |',
        '|---' * 13 + '|',
    ]
    for config, result in rows:
        if 'program' not in result:
            lines.append(f'| {config} | not one image fits |' + ' |' * 11)
            continue
        samples, bounds = result['samples_per_gpu'], result['bounds_seconds']
        bound = max((x for x in bounds if bounds[x] is not None), key=bounds.get)
        height, width = result['canvas']
        more = (
            '' if result['too_many'] is None else f' ({result["too_many"]} do not fit)'
        )
        cells = [
            config,
            result['program'],
            result['topology'],
            f'{samples}{more}',
            f'{height} x {width}',
            f'{result["memory_bytes"]["total"] / 2**30:.1f} GiB',
            f'{result["operations"] / samples / 1e12:.2f} T',
            f'{result["traffic_bytes"] / samples / 1e9:.2f} GB',
            f'{result["all_reduce_bytes"] / 1e6:.0f} MB',
            f'{samples / bounds[bound]:,.0f} images/s',
            bound.replace('_', ' '),
            f'{result["instructions"]:,}',
            f'{result["compile_cpu_seconds"]:,.0f} s',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main():
    """Compiles what is missing, then prints the table."""
    flags = parse()
    pathlib.Path(flags.out).mkdir(parents=True, exist_ok=True)
    rows, failed = [], 0
    for config, topology, program in itertools.product(
        flags.configs, flags.topologies, flags.programs
    ):
        entry = config, topology, program, flags.samples
        path = file_of(flags.out, *entry).absolute()
        if not path.exists() and not flags.table:
            print(' '.join(entry[:3]), file=sys.stderr, flush=True)
            with path.with_suffix('.txt').open('w') as log:
                words = command(path, *entry)
                subprocess.run(words, cwd=ROOT, stdout=log, stderr=log, check=False)
        if path.exists():
            rows.append((config, json.loads(path.read_text())[program]))
        else:
            failed += not flags.table
    print(format_table(rows))
    if failed:
        print(f'{failed} entries failed: see {flags.out}/*.txt', file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
