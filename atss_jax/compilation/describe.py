"""What the compiler says of a program, as text."""

from atss_jax.compilation.compiled import Compiled
from atss_jax.compilation.search import Search

_GIB = 2**30
_MODULES = 10

CAUTION = (
    'These are figures of the compiler, and bounds from published peaks: nothing was '
    'run or measured.'
)


def describe_search(program: str, start: int, search: Search) -> str:
    """Whether a program fits, what was tried, and what the compiler says of it.

    Args:
        program: its name.
        start: number of images per chip that was asked for.
        search: the result.
    """
    lines, compiled = [], search.largest
    if compiled is None:
        which = (
            'not even one image per chip' if search.is_exact else 'none of those tried'
        )
        lines.append(f'{program}: {which} fits')
    elif search.too_many is not None:
        too_many = f'{start} images per chip do not fit; '
        lines.append(
            f'{program}: {too_many if start > compiled.samples else ""}'
            f'{compiled.samples} fit: {_which(search)}'
        )
    if len(search.tried) > 1 or compiled is None:
        tried = ', '.join(
            f'{number} ({_gib(size)})' for number, size in search.tried.items()
        )
        lines.append(f'tried: {tried}')
    if compiled is not None:
        lines.append(describe(compiled))
    return '\n'.join(lines)


def _which(search):
    if not search.is_exact:
        return 'the largest data.samples_per_gpu of those tried'
    if search.largest.samples >= search.step > 1:
        return f'the largest data.samples_per_gpu that is a multiple of {search.step}'
    return 'the largest data.samples_per_gpu'


def _gib(size):
    return 'too much' if size is None else f'{size / _GIB:.2f} GiB'


def describe(compiled: Compiled) -> str:
    """The figures of a program that fits."""
    return '\n'.join(
        [
            *_heading(compiled),
            *_memory(compiled),
            *_work(compiled),
            *_times(compiled),
            *_modules(compiled),
            _effort(compiled),
        ]
    )


def _effort(compiled):
    took = f'{compiled.seconds:.0f} s, {compiled.cpu_seconds:.0f} s of processor time'
    if compiled.has_code:
        return f'compiled here in {took}'
    return f'planned here in {took}; --code also generates its code'


def _heading(compiled):
    topology, (height, width) = compiled.topology, compiled.canvas
    chips = '1 chip' if topology.chips == 1 else f'{topology.chips} chips'
    images = '1 image' if compiled.samples == 1 else f'{compiled.samples} images'
    return [
        f'{compiled.program} on {topology} ({chips}), {images} of {height}x{width} per '
        'chip: fits'
    ]


def _memory(compiled):
    memory, hbm = compiled.memory, compiled.topology.chip.hbm
    unit, scale = ('GiB', _GIB) if memory.total >= _GIB else ('MiB', 2**20)
    rows = memory._asdict()
    aliased = rows.pop('aliased')
    if not compiled.has_code:
        rows['code, at most about'] = rows.pop('code')
    share = f'{memory.total / hbm:.0%} of {hbm / _GIB:.0f} GiB'
    return [
        '',
        _row('HBM of a chip', unit),
        *(_row(f'  {name}', size / scale) for name, size in rows.items()),
        f'{_row("  all", memory.total / scale)}, {share}',
        _row('  (outputs in place of arguments)', aliased / scale),
    ]


def _row(name, value):
    """A line of a name and a number or a word, in two columns."""
    text = value if isinstance(value, str) else f'{value:,.2f}'
    return f'{name:<34}{text:>11}'


def _unit(traffic):
    return ('GB', 1e9) if traffic.size >= 1e9 else ('MB', 1e6)


def _work(compiled):
    traffic, (unit, scale) = compiled.traffic, _unit(compiled.traffic)
    by_kind = traffic.by_kind().items()
    reduced = _row('all-reduced, MB', sum(traffic.all_reduces) / 1e6)
    lines = [
        '',
        _row('operations of a chip, 10^9', compiled.operations / 1e9),
        _row(f'HBM traffic of a chip, {unit}', traffic.size / scale),
        *(_row(f'  {kind}', size / scale) for kind, size in by_kind),
        f'{reduced} in {len(traffic.all_reduces)} operations',
        *_between_slices(traffic),
        _row('instructions', f'{traffic.instructions:,}'),
    ]
    if traffic.unknown_loops:
        lines.append(_row('  loops counted once', str(traffic.unknown_loops)))
    return lines


def _between_slices(traffic):
    size = sum(traffic.between_slices)
    return [_row('sent to other slices, MB', size / 1e6)] if size else []


def _times(compiled):
    bounds = compiled.bounds
    images = compiled.samples * compiled.topology.chips / bounds.least
    lines = [
        '',
        _row('at least', 'ms'),
        _row('  matrix unit', bounds.matrix_unit * 1e3),
        _row('  HBM', bounds.hbm * 1e3),
        _row('  links', bounds.links * 1e3),
    ]
    if compiled.topology.slices > 1:
        between = bounds.between_slices
        text = 'unknown' if between is None else between * 1e3
        lines.append(_row('  between slices', text))
    lines.append(f'at most {images:,.0f} images/s by the largest of these')
    return [*lines, *_estimate(compiled)]


def _estimate(compiled):
    """The compiler's own idea of time; none where it gives no cycles."""
    seconds = compiled.estimated_seconds
    if not seconds:
        return []
    images = compiled.samples * compiled.topology.chips / seconds
    clock = compiled.topology.chip.clock / 1e9
    return [
        '',
        _row("the compiler's estimate, ms", seconds * 1e3),
        f'{images:,.0f} images/s by its {compiled.traffic.cycles / 1e6:,.1f} million '
        f'cycles at {clock:.2f} GHz',
    ]


def _modules(compiled):
    traffic, (unit, scale) = compiled.traffic, _unit(compiled.traffic)
    lines = ['', f'most HBM traffic by part, {unit}']
    lines += _shares(traffic.by_module(), traffic.size, scale)
    if traffic.cycles:
        lines += ['', 'most estimated time by part, ms']
        clock = compiled.topology.chip.clock
        lines += _shares(traffic.cycles_by_module(), traffic.cycles, clock / 1e3)
    return lines


def _shares(by_module, total, scale):
    """The first of them, with their shares of all."""
    first = list(by_module.items())[:_MODULES]
    return [f'  {x / scale:>9.2f} {x / total:>4.0%}  {name}' for name, x in first]
