"""Numbers of `scaling_model.py`: published ones of machines, and measured speeds."""

import dataclasses

from atss_jax.compilation.chips import CHIPS


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A published or measured speed, and the share of the largest bound that it is."""

    what: str
    images_per_s: float
    training_gflops: float
    peak_tflops: float
    source: str

    @property
    def efficiency(self) -> float:
        """Share of the matrix units' peak."""
        return self.images_per_s * self.training_gflops / self.peak_tflops / 1e3


CALIBRATIONS = (
    # Its HBM bound is 17.9 ms (86 GB at 4.8 TB/s), the matrix units' 19.3 of 50.0 ms.
    Calibration(
        'this program on one H200, 16 images, bfloat16',
        320.0,
        1205.1,
        989,
        'benchmarks/RESULTS.md, "One H200"; peak: '
        'https://www.nvidia.com/en-us/data-center/h200/',
    ),
    # 571 steps of one image per chip in 4.30 s. Steps are dispatched ahead, so that the
    # log's epochs are not exact: one of its second run would be at 94 % of the peak.
    # Operations: RetinaNet with ResNeXt-50 at 800 x 800 and 264 classes has 201 G
    # products forward; three times as many in all, except in the frozen stem and stage.
    Calibration(
        'RetinaNet on 2,048 TPU v4 chips, MLPerf 2.0, fifth epoch by its log',
        132.8,
        1160,
        275,
        'https://github.com/mlcommons/training_results_v2.0, '
        'Google/results/cloud-tpu-v4-4096-TF/ssd/result_0.txt',
    ),
    # 9 epochs of 1,170,301 images on 2,048 chips in 137 s.
    Calibration(
        'the same, whole run with nine evaluations',
        37.5,
        1160,
        275,
        'the same file, run_start to run_stop',
    ),
)


def _of_chip(name):
    """The peaks of a TPU in the units of the flags."""
    chip = CHIPS[name]
    return {
        'peak_tflops': chip.peak / 1e12,
        'hbm_gb_s': chip.hbm_per_s / 1e9,
        # One link in one direction, though a chip has four or six.
        'link_gb_s': chip.link_per_s / 1e9,
        'host_gb_s': chip.link_per_s / 1e9,
    }


# Peaks of TPUs, with their sources, are in atss_jax/compilation/chips.py.
PRESETS = {
    # 989 TFLOPS of bfloat16 without sparsity, 3.35 TB/s; NVLink's 900 GB/s count both
    # directions: https://www.nvidia.com/en-us/data-center/h100/
    # 8 network cards of 400 Gb/s, 112 cores:
    # https://docs.nvidia.com/dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest/core-components.html
    'h100': {
        'devices_per_host': 8,
        'peak_tflops': 989,
        'hbm_gb_s': 3350,
        'link_gb_s': 450,
        'host_gb_s': 400,
        'hop_us': 5,
        'cores_per_host': 112,
        'hosts': 256,
        # XLA's program for an H200 moves 86 GB for 16 images.
        'traffic_gb': 5.375,
    },
    # 240 virtual CPUs: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
    'tpu-v4': {
        'devices_per_host': 4,
        **_of_chip('v4'),
        'hop_us': 1,
        'cores_per_host': 120,
        'hosts': 256,
    },
    # 256 chips a slice, 112 virtual CPUs: https://cloud.google.com/tpu/docs/v5e
    'tpu-v5e': {
        'devices_per_host': 4,
        **_of_chip('v5e'),
        'hop_us': 1,
        'cores_per_host': 56,
        'hosts': 64,
    },
    # 208 virtual CPUs: https://cloud.google.com/tpu/docs/v5p
    'tpu-v5p': {
        'devices_per_host': 4,
        **_of_chip('v5p'),
        'hop_us': 1,
        'cores_per_host': 104,
        'hosts': 256,
    },
    # 256 chips a slice, 180 virtual CPUs: https://cloud.google.com/tpu/docs/v6e
    'tpu-v6e': {
        'devices_per_host': 4,
        **_of_chip('v6e'),
        'hop_us': 1,
        'cores_per_host': 90,
        'hosts': 64,
    },
}
