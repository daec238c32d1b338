"""Flags of other programs, mmdetection's above all, and what stands for them here."""

import argparse
from collections.abc import Sequence

_BOTH = {
    'cfg_options': '--config.FIELD=VALUE, one for each field',
    'options': '--config.FIELD=VALUE, one for each field',
    'work_dir': '--workdir',
    'output_dir': '--workdir',
    'launcher': 'nothing: SLURM and others are detected; see docs/pods.md',
    'local_rank': 'nothing: SLURM and others are detected; see docs/pods.md',
    'gpus': 'nothing: all are used that CUDA_VISIBLE_DEVICES shows',
    'gpu_id': 'nothing: all are used that CUDA_VISIBLE_DEVICES shows',
    'gpu_ids': 'nothing: all are used that CUDA_VISIBLE_DEVICES shows',
    'batch_size': '--config.data.samples_per_gpu=N, images per device',
    'workers': '--config.data.workers_per_gpu=N',
}
_RESUME = (
    'nothing: the same command with the same --workdir resumes by itself. To continue '
    'the run of another folder in this one, use --config.resume_from=FOLDER'
)
_FLAGS = {
    'train': {
        **_BOTH,
        'resume': _RESUME,
        'auto_resume': _RESUME,
        'resume_from': _RESUME,
        'load_from': '--config.load_from=FILE or FOLDER',
        'checkpoint': '--config.load_from=FILE or FOLDER',
        'weights': '--config.load_from=FILE or FOLDER',
        'amp': '''--config.fp16="{'loss_scale': 'dynamic'}"''',
        'fp16': '''--config.fp16="{'loss_scale': 'dynamic'}"''',
        'auto_scale_lr': '--config.auto_scale_lr.enable=True',
        'lr': '--config.optimizer.lr=RATE',
        'epochs': '--config.total_epochs=N',
        'seed': '--config.seed=N',
        'deterministic': 'nothing: training always is',
        'no_validate': '--config.evaluation.interval=N, a large one',
    },
    'eval': {
        **_BOTH,
        'checkpoint': '--step=N; for a file of weights make a workdir: atss convert',
        'eval': 'nothing: boxes are scored as COCO does it',
        'format_only': 'nothing: the detections are always written',
        'show': 'atss draw detections',
        'show_dir': 'atss draw detections, or --report',
    },
    'doctor': {
        **_BOTH,
        'checkpoint': '--step=N; for a file of weights --workdir=FILE',
        'data': '--config.data.train.path=FOLDER for a run of --data (of another '
        '--split its section); for COCO files --config.data.train.ann_file=FILE and '
        '--config.data.train.img_prefix=FOLDER',
    },
}


def check(
    parser: argparse.ArgumentParser, command: str, unknown: Sequence[str]
) -> None:
    """Ends the program if a flag of another program is among the unknown ones.

    Args:
        parser: of the command, for its usage.
        command: 'train', 'eval' or 'doctor'.
        unknown: the words that the parser did not know.
    """
    for word in unknown:
        flag = word.partition('=')[0]
        equivalent = _FLAGS[command].get(flag.removeprefix('--').replace('-', '_'))
        if flag.startswith('--') and equivalent is not None:
            parser.error(f'there is no {flag}; here that is {equivalent}')
