"""`atss export`: a detector as one StableHLO file that needs none of its code."""

import argparse

from atss_jax.commands import command_line


def parser(program: str = 'atss export') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Writes a detector as one StableHLO file that needs none of its code.',
        f'{command_line.FIELDS_HELP} See docs/predict.md.',
    )
    command_line.add_weights_flags(flags, 'folder of a run, or a .pth or .safetensors')
    flags.add_argument(
        '--out', type=command_line.path, required=True, help='.stablehlo file to write'
    )
    flags.add_argument(
        '--step', type=int, help='a checkpoint of a workdir (default: the best)'
    )
    command_line.add_class_names_flag(flags)
    flags.add_argument(
        '--platforms',
        default='cpu,cuda,tpu',
        help='platforms that the file runs on; rocm is another (default: cpu,cuda,tpu)',
    )
    return flags


def main(arguments: list[str], program: str = 'atss export') -> int:
    """Exports as the flags say; gives the exit status."""
    flags, overrides = parser(program).parse_known_args(arguments)

    def action():
        from atss_jax.config import parse_overrides
        from atss_jax.inference import export
        from atss_jax.training.trained_model import load_trained

        trained = load_trained(
            command_line.weights_of(flags),
            flags.model_config,
            flags.step,
            flags.class_names,
            overrides=parse_overrides(overrides),
        )
        export.write(flags.out, trained, flags.platforms.split(','))
        count = len(trained.classes)
        print(f'wrote {flags.out} and {flags.out}.json: {count} classes')

    return command_line.guard(program, action)
