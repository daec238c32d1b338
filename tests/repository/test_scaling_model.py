"""The scaling model against cases worked by hand, its counts against the model."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from atss_jax.config import build_model, load_config
from atss_jax.models import convolution_cpu
from atss_jax.training.state import merge, split, zero_variables
from benchmarks import scaling_model
from benchmarks.scaling_model import (
    CALIBRATIONS,
    PRESETS,
    Assumptions,
    of_compiled,
    parse,
    predict,
    ring,
    table,
)
from tests.conftest import ROOT

# 2 devices, round numbers: 1 TFLOP an image at half of 20 TFLOPS, 1 GB of gradients.
ROUND = Assumptions(
    devices_per_host=2,
    peak_tflops=20,
    hbm_gb_s=100,
    efficiency=0.5,
    link_gb_s=10,
    host_gb_s=2,
    hop_us=0,
    cores_per_host=4,
    hosts=256,
    samples_per_gpu=3,
    training_gflops=1000,
    traffic_gb=1,
    all_reduce_mb=1000,
    images_per_s_core=5,
    images=100,
)


def changed(**fields):
    return dataclasses.replace(ROUND, **fields)


def test_ring_by_hand():
    # 4 members: 3 parts of a quarter go round twice. 6/4 of 100 bytes at 10 a second,
    # and 6 messages of half a second.
    assert ring(4, 100, 10, 0.5) == pytest.approx(15 + 3)
    assert ring(1, 100, 10, 0.5) == 0
    # However many members, no more than twice the bytes.
    assert ring(10**6, 100, 10, 0) == pytest.approx(20, rel=1e-5)


def test_one_host_by_hand():
    row = predict(1, ROUND)
    assert row.compute == pytest.approx(0.3)  # 3 images of 0.1 s
    assert row.all_reduce == pytest.approx(0.1)  # 2 devices: 1 GB at 10 GB/s; no host
    assert row.input == pytest.approx(0.3)  # 6 images, 20 a second
    assert row.step == pytest.approx(0.4)
    assert (row.batch, row.steps_per_epoch) == (6, 17)  # 100 / 6, rounded up
    assert row.images_per_s == pytest.approx(15)
    assert row.bound == 'compute'


def test_the_larger_bound_decides():
    # 3 images of 10 GB at 100 GB/s, half as fast as that.
    assumed = changed(traffic_gb=10)
    assert assumed.bounds == pytest.approx({'matrix unit': 0.15, 'HBM': 0.3})
    assert predict(1, assumed).compute == pytest.approx(0.6)


def test_across_hosts_by_hand():
    # 4 hosts: 6/4 of 1 GB at 2 GB/s, after the ring inside each host.
    row = predict(4, ROUND)
    assert row.all_reduce == pytest.approx(0.1 + 0.75)
    assert row.step == pytest.approx(0.3 + 0.85)
    assert (row.batch, row.bound) == (24, 'all-reduce')


def test_a_lone_device_sends_nothing():
    assert predict(1, changed(devices_per_host=1, hop_us=5)).all_reduce == 0


def test_latency_counts_for_both_all_reduces():
    # 2 messages in the host and 6 across hosts, for gradients and for normalizers.
    slow = predict(4, changed(hop_us=1000)).all_reduce - predict(4, ROUND).all_reduce
    assert slow == pytest.approx(2 * (2 + 6) * 1e-3)


def test_each_all_reduce_costs_its_latency():
    five = predict(4, changed(hop_us=1000, all_reduces=5)).all_reduce
    two = predict(4, changed(hop_us=1000)).all_reduce
    assert five - two == pytest.approx(3 * (2 + 6) * 1e-3)


def test_overlap_hides_gradients_and_not_normalizers():
    row = predict(4, changed(overlap=1.0, hop_us=1000))
    assert row.all_reduce == pytest.approx((2 + 6) * 1e-3)
    assert predict(4, changed(overlap=0.5)).all_reduce == pytest.approx(0.85 / 2)


def test_slow_input_hides_everything_else():
    row = predict(8, changed(cores_per_host=0.5))
    assert row.step == row.input == pytest.approx(6 / 2.5)
    assert row.bound == 'input'


def test_measured_speed_replaces_operations():
    row = predict(1, changed(images_per_s_device=6.0, peak_tflops=1e9))
    assert row.compute == pytest.approx(0.5)


@pytest.mark.parametrize('preset', sorted(PRESETS))
def test_more_hosts_do_more_at_no_better_efficiency(preset):
    given = parse([f'--preset={preset}']).assumed
    rows = table(given)
    assert [row.hosts for row in rows] == [2**i for i in range(len(rows))]
    assert rows[-1].hosts == given.hosts
    for one, two in itertools.pairwise(rows):
        assert two.step >= one.step
        assert one.images_per_s < two.images_per_s <= 2 * one.images_per_s
        assert two.steps_per_epoch * two.step < one.steps_per_epoch * one.step


@pytest.mark.parametrize(
    'flag',
    ['hosts=0', 'link_gb_s=-1', 'overlap=1.5', 'efficiency=nan', 'peak_tflops=inf'],
)
def test_impossible_numbers_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        parse([f'--{flag}'])
    assert f'--{flag.split("=")[0]}' in capsys.readouterr().err


@pytest.fixture(scope='module')
def recipe():
    """The main config's model, and shapes of its variables; nothing is computed."""
    model = build_model(load_config(str(ROOT / 'configs' / 'atss_r50_1x.py')))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), zero_variables(model)
    )
    return model, shapes


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_parameters_are_those_of_the_recipe(recipe):
    model, shapes = recipe
    trained, _ = split(shapes['params'], model)
    assert count(trained) == 32_069_978
    assert 4 * count(trained) / 1e6 == pytest.approx(parse([]).assumed.all_reduce_mb)
    assert count(shapes['params']) == 32_295_322


def test_operations_are_those_of_the_recipe(recipe, monkeypatch):
    """They are counted in the lowered program: each is a multiply or an add."""
    # With 4 products per cell instead of 9 it would have fewer.
    monkeypatch.setattr(convolution_cpu, '_FEWEST_PRODUCTS_FOR_WINOGRAD', math.inf)
    jax.clear_caches()
    model, shapes = recipe
    trained, frozen = split(shapes['params'], model)
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes['batch_stats'])

    def forward(trained, frozen, image, size):
        variables = {'params': merge(trained, frozen), 'batch_stats': zeros}
        return model.apply(variables, image, size)

    def total(*inputs):
        return sum(level.sum() for level in jax.tree.leaves(forward(*inputs)))

    def gflops(function, width):
        image = jax.ShapeDtypeStruct((1, 800, width, 3), jnp.float32)
        lowered = jax.jit(function).lower(trained, frozen, image, size)
        return lowered.cost_analysis()['flops'] / 1e9

    assert gflops(jax.value_and_grad(total), 1344) == pytest.approx(1205.1, rel=1e-3)
    assert parse([]).assumed.training_gflops == 1205.1
    # mmdetection counts 205 G multiply-adds at 800 x 1280, forward.
    assert gflops(forward, 1280) == pytest.approx(2 * 205, rel=0.02)


# What the compiler says --------------------------------------------------------------

# 4 images of 1 TFLOP and 2 GB; 1 GB in 5 all-reduces.
ENTRY = {
    'topology': 'v5e:2x4',
    'canvas': [64, 96],
    'samples_per_gpu': 4,
    'operations': 4e12,
    'traffic_bytes': 8e9,
    'all_reduce_bytes': 10**9,
    'all_reduces': 5,
    'estimated_seconds': 0.04,
    'versions': {'jax': '1.2.3', 'libtpu': '4.5'},
}


def compiled_file(tmp_path, entry=ENTRY):
    """As `atss compile` writes it: with more than is read, and detection."""
    file = tmp_path / 'step.json'
    file.write_text(json.dumps({'train': entry | {'chips': 8}, 'detect': {}}))
    return file


def test_a_compiled_step_by_hand(tmp_path):
    model = parse(['--preset=tpu-v5e', f'--compiled={compiled_file(tmp_path)}'])
    assumed = model.assumed
    assert model.entry == ENTRY
    assert (assumed.samples_per_gpu, assumed.all_reduces) == (4, 5)
    assert (assumed.training_gflops, assumed.traffic_gb) == (1000, 2)
    assert assumed.bounds == pytest.approx({'matrix unit': 4 / 197, 'HBM': 8 / 819})
    assert predict(1, assumed).compute == pytest.approx(4 / 197 / assumed.efficiency)
    # 4 chips: 6/4 of 1 GB at 50 GB/s, and 5 times 6 messages of 1 us.
    assert predict(1, assumed).all_reduce == pytest.approx(0.03 + 30e-6)


def test_flags_come_after_the_compiler(tmp_path):
    words = [f'--compiled={compiled_file(tmp_path)}', '--traffic_gb=3']
    assert parse(['--preset=tpu-v6e', *words]).assumed.traffic_gb == 3


def test_the_entry_of_another_chip_keeps_the_peaks_of_the_preset(tmp_path):
    file = compiled_file(tmp_path)
    model = parse(['--preset=tpu-v4', f'--compiled={file}'])
    assert model.assumed.peak_tflops == 275 and model.assumed.traffic_gb == 2
    text = scaling_model.format_assumptions(model.assumed, 'tpu-v4', model.entry)
    assert 'compiled for v5e:2x4, 4 images of 64 x 96 per chip (jax 1.2.3' in text
    assert 'that is another chip' in text and 'that the compiler estimates' not in text
    model = parse(['--preset=tpu-v5e', f'--compiled={file}'])
    text = scaling_model.format_assumptions(model.assumed, 'tpu-v5e', model.entry)
    assert 'that is another chip' not in text
    # 20.3 of 40 ms, and 4 images in 40 ms.
    assert '  0.51    100  cycles that the compiler estimates' in text


def test_a_step_that_was_only_planned(tmp_path):
    """Its code was not generated: the compiler has no cycles of it."""
    file = compiled_file(tmp_path, ENTRY | {'estimated_seconds': None})
    model = parse(['--preset=tpu-v5e', f'--compiled={file}'])
    text = scaling_model.format_assumptions(model.assumed, 'tpu-v5e', model.entry)
    assert 'bounds of a step' in text and 'that the compiler estimates' not in text


def test_an_entry_is_kept_for_its_chip(tmp_path, monkeypatch):
    kept = tmp_path / 'kept.json'
    kept.write_text(json.dumps({'tpu-v6e': ENTRY | {'topology': 'v6e:2x2'}}))
    monkeypatch.setattr(scaling_model, 'COMPILED_STEPS', kept)
    before = parse(['--preset=tpu-v5e'])
    assert before.entry['topology'] == 'v6e:2x2'  # there is no other
    file = compiled_file(tmp_path)
    parse(['--preset=tpu-v5e', f'--compiled={file}', '--keep'])
    assert list(json.loads(kept.read_text())) == ['tpu-v5e', 'tpu-v6e']
    assert parse(['--preset=tpu-v5e']).entry == ENTRY


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        (['--compiled=no_such.json'], 'no_such.json'),
        (['--keep'], '--keep: give --compiled too'),
        (['--samples_per_gpu=2'], 'traffic per image depends on it'),
    ],
)
def test_what_is_refused_about_compiled_steps(words, part, capsys):
    with pytest.raises(SystemExit):
        parse(['--preset=tpu-v5e', *words])
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    'text', ['', '[]', '{"detect": {}}', '{"train": {"tried": {}}}']
)
def test_a_file_without_a_training_step(text, tmp_path, capsys):
    file = tmp_path / 'step.json'
    file.write_text(text)
    with pytest.raises(SystemExit):
        parse(['--preset=tpu-v5e', f'--compiled={file}'])
    said = capsys.readouterr().err
    assert str(file) in said and 'atss compile CONFIG --programs=train' in said


def test_a_step_is_not_kept_for_another_chip(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(['--preset=tpu-v6e', f'--compiled={compiled_file(tmp_path)}', '--keep'])
    assert 'the file is for v5e:2x4' in capsys.readouterr().err


def test_the_kept_steps_are_of_the_recipe():
    """Multiplications and gradients are nearly those that the model has by itself."""
    entries = json.loads(scaling_model.COMPILED_STEPS.read_text())
    assert set(entries) <= set(PRESETS)
    for entry in entries.values():
        found = of_compiled(entry)
        assert entry['canvas'] == [800, 1344]
        assert found['training_gflops'] == pytest.approx(1205.1, rel=0.05)
        assert found['all_reduce_mb'] == pytest.approx(128.28, rel=0.001)


def test_calibrations():
    assert [round(c.efficiency, 2) for c in CALIBRATIONS] == [0.39, 0.56, 0.16]
    assert parse([]).assumed.efficiency == round(CALIBRATIONS[0].efficiency, 2)


# The program --------------------------------------------------------------------------


def test_it_prints_what_it_assumes_and_the_table():
    script = str(ROOT / 'benchmarks' / 'scaling_model.py')
    done = subprocess.run(
        [sys.executable, script, '--hosts=4', '--images_per_s_device=40'],
        capture_output=True,
        text=True,
        check=True,
    )
    for field in dataclasses.fields(Assumptions):
        assert f'--{field.name} ' in done.stdout
    *_, one, two, four = (line.split() for line in done.stdout.splitlines())
    # 16 images at 40 a device and second.
    assert one[:3] == ['1', '16', '50.0']
    assert (two[1], four[1]) == ('32', '64')


def test_the_page_on_pods_quotes_what_it_prints():
    script = str(ROOT / 'benchmarks' / 'scaling_model.py')
    done = subprocess.run(
        [sys.executable, script, '--preset=tpu-v5e'],
        capture_output=True,
        text=True,
        check=True,
    )
    page = (ROOT / 'docs' / 'pods.md').read_text()
    for line in done.stdout.splitlines():
        assert line.rstrip() in page
