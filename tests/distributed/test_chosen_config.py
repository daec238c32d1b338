"""`atss train --data FOLDER` on several hosts: one config for all of them."""

import json
import os
import subprocess
import sys

import pytest

from atss_jax.tuning.recipe import batch_per_device
from benchmarks.kill_resume import join_flags
from tests.conftest import ROOT
from tests.support.forms import write_files
from tests.support.yolo_set import USUAL

# A host with as much memory as MEMORY says, which chooses a config and shows it.
PROGRAM = """
import os, sys
usual = os.sysconf
pages = int(os.environ['MEMORY']) // usual('SC_PAGE_SIZE')
os.sysconf = lambda name: pages if name == 'SC_PHYS_PAGES' else usual(name)

from atss_jax.commands import command_line, train
from atss_jax.config import to_json
from atss_jax.data.forms.finder import Finder
from atss_jax.tuning.from_data import this_device

flags = train.parser().parse_args(sys.argv[1:])

def action():
    print('memory', this_device().memory)
    print(to_json(train._config(flags, {}, Finder())))

sys.exit(command_line.run(flags, '-c', action))
"""


MEMORIES = 16 * 2**30, 2**29


@pytest.mark.long
def test_hosts_of_unlike_memory_choose_alike(tmp_path):
    """What process 0 chooses: the other one would have chosen less."""
    write_files(tmp_path / 'set', USUAL)
    flags = f'--data={tmp_path / "set"}', f'--workdir={tmp_path / "w"}'
    running = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, *host_flags, *flags],
            cwd=ROOT,
            env=os.environ
            | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '', 'MEMORY': str(memory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for memory, host_flags in zip(MEMORIES, join_flags(2), strict=True)
    ]
    output = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], output
    for memory, text in zip(MEMORIES, output, strict=True):
        assert f'memory {memory}\n' in text
    configs = [json.loads(text[text.index('\n{') :]) for text in output]
    assert configs[0] == configs[1]
    data = configs[0]['data']
    ours, others = (
        batch_per_device(max(data['canvases']), memory, 'cpu') for memory in MEMORIES
    )
    assert data['samples_per_gpu'] == ours > others
