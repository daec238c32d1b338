"""mmdetection's side of `training.py`: a whole training of `configs/atss_r18_bccd.py`.

    mmdet_env/bin/python benchmarks/peers/mmdet_training.py data/bccd mmdet_work 4

Run by the Python that has mmdetection; imports neither atss_jax nor JAX. Arguments: the
folder of the data, a folder for what mmdetection writes, the number of epochs.
"""

import pathlib
import sys

from mmdet_side import CONFIG, versions

SIZE = 8  # images per batch
CLASSES = ('RBC', 'WBC', 'Platelets')


def config(data, folder, epochs):
    """mmdetection's own ATSS config with the fields of the recipe."""
    import mmdet
    from mmengine.config import Config

    config = Config.fromfile(pathlib.Path(mmdet.__file__).parent / CONFIG)
    model = config.model
    model.backbone.update(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None)
    model.neck.in_channels = [64, 128, 256, 512]
    model.bbox_head.num_classes = len(CLASSES)
    config.train_dataloader.batch_size = SIZE
    for split in ('train', 'val', 'test'):
        dataset = config[f'{split}_dataloader'].dataset
        file = f'{data}/annotations/instances_{split}.json'
        dataset.update(
            data_root='',
            ann_file=file,
            data_prefix={'img': f'{data}/images/'},
            metainfo={'classes': CLASSES},
        )
        if split != 'train':
            config[f'{split}_evaluator'].ann_file = file
        for transform in dataset.pipeline:
            if transform.type == 'Resize':
                transform.scale = (320, 240)
    config.optim_wrapper.optimizer.lr = 0.005
    config.optim_wrapper.clip_grad = dict(max_norm=10, norm_type=2)
    warm_up, steps = config.param_scheduler
    warm_up.end, steps.milestones = 100, [5, 7]
    config.train_cfg.max_epochs = epochs
    config.default_hooks.logger.interval = 13
    config.work_dir = str(folder)
    return config


def main():
    """Trains and evaluates after each epoch."""
    from mmengine.runner import Runner

    versions()  # another version of mmdetection is refused
    data, folder, epochs = sys.argv[1:]
    Runner.from_cfg(config(data, folder, int(epochs))).train()


if __name__ == '__main__':
    main()
