"""`atss download-coco`: COCO 2017, downloaded, checked and unpacked."""

import argparse

from atss_jax.commands import command_line


def parser(program: str = 'atss download-coco') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Downloads and unpacks COCO 2017: 21 GB, and 41 GB on disk meanwhile. Run '
        'again, it continues where it stopped.',
    )
    flags.add_argument(
        '--root',
        type=command_line.path,
        default='data/coco',
        help='folder to fill (default: data/coco)',
    )
    flags.add_argument(
        '--base_url',
        help='address of a mirror (default: http://images.cocodataset.org)',
    )
    flags.add_argument(
        '--keep_archives', action='store_true', help='do not delete the zip files'
    )
    return flags


def main(arguments: list[str], program: str = 'atss download-coco') -> int:
    """Downloads as the flags say; gives the exit status."""
    flags = parser(program).parse_args(arguments)

    def action():
        from atss_jax.data.coco.archives import BASE_URL, download_coco

        download_coco(flags.root, flags.base_url or BASE_URL, flags.keep_archives)
        print(f'COCO 2017 is complete in {flags.root}')

    return command_line.guard(program, action)
