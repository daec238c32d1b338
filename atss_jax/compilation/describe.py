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
    lines = []
    compiled = search.largest
    if search.too_many is not None:
        largest = 'not even one image per chip fits'
        if compiled is not None:
            is_exact = (
                'the largest' if search.is_exact else 'the largest of those tried'
            )
            largest = f'{compiled.samples} fit: {is_exact} data.samples_per_gpu'
        over = start not in search.tried or start >= search.too_many
        fits = f'{program}: {start} images per chip do not fit; ' if over else ''
        lines.append(f'{fits}{largest}')
    if len(search.tried) > 1:
        tried = ', '.join(
            f'{number} ({_gib(size)})' for number, size in search.tried.items()
        )
        lines.append(f'tried: {tried}')
    if compiled is not None:
        lines.append(describe(compiled))
    return '\n'.join(lines)


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
            f'compiled here in {compiled.seconds:.0f} s, '
            f'{compiled.cpu_seconds:.0f} s of processor time',
        ]
    )


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
    lines = ['', f'HBM of a chip{"":<17}{"GiB":>9}']
    rows = memory._asdict()
    del rows['aliased']
    lines += [f'  {name:<28}{size / _GIB:>9.2f}' for name, size in rows.items()]
    share = memory.total / hbm
    lines.append(
        f'  {"all":<28}{memory.total / _GIB:>9.2f} of {hbm / _GIB:.0f}, {share:.0%}'
    )
    lines.append(f'  outputs in place of arguments{memory.aliased / _GIB:>8.2f}')
    return lines


def _work(compiled):
    traffic = compiled.traffic
    reduced = sum(traffic.all_reduces)
    lines = [
        '',
        f'operations of a chip          {compiled.operations / 1e12:>9.3f} x 10^12',
        f'HBM traffic of a chip         {traffic.size / 1e9:>9.3f} GB',
    ]
    lines += [
        f'  {kind:<28}{size / 1e9:>9.3f}' for kind, size in traffic.by_kind().items()
    ]
    lines += [
        f'all-reduced                   {reduced / 1e6:>9.3f} MB in '
        f'{len(traffic.all_reduces)} operations',
        f'instructions                  {traffic.instructions:>9,}',
    ]
    if traffic.unknown_loops:
        lines.append(f'  loops counted once{traffic.unknown_loops:>19}')
    return lines


def _times(compiled):
    bounds = compiled.bounds
    images = compiled.samples * compiled.topology.chips / bounds.least
    between = bounds.between_slices
    lines = [
        '',
        'at least                             ms',
        f'  matrix unit               {bounds.matrix_unit * 1e3:>11.3f}',
        f'  HBM                       {bounds.hbm * 1e3:>11.3f}',
        f'  links                     {bounds.links * 1e3:>11.3f}',
    ]
    if compiled.topology.slices > 1:
        value = 'unknown' if between is None else f'{between * 1e3:.3f}'
        lines.append(f'  between slices            {value:>11}')
    return [*lines, f'at most {images:,.0f} images/s by the largest of these']


def _modules(compiled):
    traffic = compiled.traffic
    lines = ['', 'most HBM traffic by part       GB']
    for name, size in list(traffic.by_module().items())[:_MODULES]:
        lines.append(f'  {size / 1e9:>8.3f} {size / traffic.size:>4.0%}  {name}')
    return lines
