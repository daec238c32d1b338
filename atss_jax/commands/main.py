"""`atss COMMAND`: finds the command and runs it."""

import difflib
import importlib
import sys

import atss_jax
from atss_jax.commands import interrupts

COMMANDS = {
    'init': 'write a config that fits your data',
    'train': 'train a detector',
    'eval': 'score a checkpoint, or the results of any detector',
    'predict': 'detect objects in images and videos',
    'check-data': 'say what is wrong or odd about a data set, without training',
    'doctor': 'rank what is probably wrong in annotations, and correct them',
    'split': 'divide a data set into train, val and test',
    'draw': 'draw data, batches, assignment, detections and runs',
    'models': 'list trained detectors that can be used by name',
    'convert': 'convert weights between .pth, .safetensors and workdirs',
    'import-mmdet': 'make a workdir of an mmdetection config and checkpoint',
    'export': 'write a detector as one StableHLO, ONNX or HTML file',
    'show-config': 'print a config with all its fields',
    'compile': 'compile for TPUs without one: memory, traffic, time bounds',
    'flops': 'print parameters and multiply-adds by part',
    'download-coco': 'download and unpack COCO 2017',
    'convert-data': 'write a data set of any form as a COCO file',
    'prepare-tfds': 'convert a data set of any form to a TFDS data set',
    'write-shapes': 'write generated images as a small COCO data set',
}
"""Name and summary of each command; each has a module of its name in this room."""


def main(arguments: list[str] | None = None, program: str | None = None) -> int:
    """Runs one command.

    Args:
        arguments: name of the command and its flags; None: those of the process.
        program: how the user called the command, for its help and messages; None:
            `atss COMMAND`.

    Returns:
        The exit status: 0 if the command succeeded.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else None
    if name == '--version':
        print(f'atss-jax {atss_jax.__version__}')
        return 0
    program = program or f'atss {name}'
    with interrupts.heeded() as interrupted:
        try:
            return _run(name, arguments[1:], program)
        except KeyboardInterrupt:  # while it imports libraries, which takes seconds
            pass
        except ImportError:
            if not interrupted():
                raise
    print(f'{program}: interrupted', file=sys.stderr)
    return 130


def _run(name, flags, program):
    # Imported late: Ctrl-C is heeded by now, and the help needs neither JAX nor NumPy.
    if name in ('-h', '--help'):
        from atss_jax.commands import command_line

        command_line.show(_help())
        return 0
    if name not in COMMANDS:
        print(_complaint(name), file=sys.stderr)
        return 2
    module = importlib.import_module(f'atss_jax.commands.{name.replace("-", "_")}')
    return module.main(flags, program)


def _help():
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {summary}' for name, summary in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: atss COMMAND [flags]',
            '',
            'ATSS object detection in JAX. `atss COMMAND --help` lists the flags.',
            '',
            *lines,
            '',
            '  --version  print the version',
        ]
    )


def _complaint(name):
    if name is None:
        return 'atss: a COMMAND is required; `atss --help` lists them'
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f'did you mean {close[0]}?' if close else '`atss --help` lists them'
    return f'atss: there is no command {name!r}; {hint}'
