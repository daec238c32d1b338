"""Who the processes are: flags, launchers, and the roll call before JAX starts."""

import socket
import threading
import time

import pytest

from atss_jax.distributed import cluster
from atss_jax.distributed.cluster import Member, call_roll, find


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


# Finding out ------------------------------------------------------------------------


def test_one_process_needs_nothing():
    assert find(None, None, None, {}) is None


def test_flags():
    found = find('10.0.0.1:1234', 4, 3, {})
    assert found == Member('10.0.0.1:1234', 4, 3)
    assert found.address == ('10.0.0.1', 1234)


def test_flags_come_before_variables_and_these_before_the_launcher():
    environment = {
        'JAX_COORDINATOR_ADDRESS': 'a:1',
        'JAX_NUM_PROCESSES': '5',
        'JAX_PROCESS_ID': '2',
        'OMPI_COMM_WORLD_SIZE': '7',
        'OMPI_COMM_WORLD_RANK': '6',
    }
    assert find(None, None, None, environment) == Member('a:1', 5, 2)
    assert find('b:2', None, 3, environment) == Member('b:2', 5, 3)


@pytest.mark.parametrize(
    ('nodes', 'first'),
    [
        ('node1', 'node1'),
        ('node1,other2', 'node1'),
        ('node[007-009,11],x', 'node007'),
        ('gpu-a[3,5]', 'gpu-a3'),
        ('r[1-2]n[03-04,6],x', 'r1n03'),
        ('node[1-2]-ib', 'node1-ib'),
    ],
)
def test_first_node_of_slurms_list(nodes, first):
    assert cluster.first_node(nodes) == first


SLURM = {
    'SLURM_JOB_ID': '4100',
    'SLURM_STEP_NODELIST': 'n[01-02]',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_STEP_NUM_NODES': '2',
}


def test_slurm():
    # 61440 + 4100 % 4096
    assert find(None, None, None, SLURM) == Member('n01:61444', 2, 1)
    own_port = SLURM | {'JAX_COORDINATOR_PORT': '99'}
    assert find(None, None, None, own_port).coordinator == 'n01:99'


def test_several_tasks_on_a_slurm_node_share_its_devices():
    crowded = SLURM | {'SLURM_NTASKS': '8', 'SLURM_STEP_NUM_NODES': '2'}
    assert not find(None, None, None, crowded).alone_on_host


def test_a_batch_script_or_one_task_is_one_process():
    outside_srun = {k: v for k, v in SLURM.items() if k != 'SLURM_STEP_NODELIST'}
    assert find(None, None, None, outside_srun) is None
    one = SLURM | {'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'}
    assert find(None, None, None, one) is None


OPEN_MPI = {
    'OMPI_COMM_WORLD_SIZE': '2',
    'OMPI_COMM_WORLD_RANK': '1',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '1',
}


def test_open_mpi():
    uri = {'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911'}
    # 1531576320 = 4096 * 373920, and 373920 % 4096 = 1184
    expected = Member('10.96.0.1:62624', 2, 1)
    assert find(None, None, None, OPEN_MPI | uri) == expected


def test_open_mpi_5_must_be_told_the_coordinator():
    with pytest.raises(ValueError, match=r'--coordinator not given'):
        find(None, None, None, OPEN_MPI)
    assert find('a:1', None, None, OPEN_MPI) == Member('a:1', 2, 1)


def test_one_process_of_its_own_under_a_launcher():
    assert find(None, 1, None, SLURM) is None


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('10.0.0.1', 2, 0), "coordinator '10.0.0.1': expected HOST:PORT"),
        (('10.0.0.1:port', 2, 0), 'expected HOST:PORT'),
        (('10.0.0.1:70000', 2, 0), 'expected HOST:PORT'),
        (('a:1', 2, 2), 'process_id 2 of num_processes 2'),
        (('a:1', 2, -1), 'process_id -1 of num_processes 2'),
        (('a:1', None, 0), '--num_processes not given'),
        ((None, 2, 0), '--coordinator not given'),
        ((None, 2, None), '--coordinator, --process_id not given'),
    ],
)
def test_wrong_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        find(*flags, {})


def test_variable_that_is_no_number():
    with pytest.raises(ValueError, match="JAX_PROCESS_ID='x' in the environment"):
        find('a:1', 2, None, {'JAX_PROCESS_ID': 'x'})


# Roll call --------------------------------------------------------------------------


def roll(*members, timeout=5.0):
    """What each member is told: None or the text of its error."""
    verdicts = [None] * len(members)

    def one(index, member):
        try:
            call_roll(member, timeout)
        except ValueError as error:
            verdicts[index] = str(error)

    threads = [threading.Thread(target=one, args=item) for item in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return verdicts


def members(count, port, ids=None, says=None):
    ids = ids or range(count)
    says = says or [count] * count
    return [
        Member(f'127.0.0.1:{port}', number, own)
        for number, own in zip(says, ids, strict=True)
    ]


def test_all_are_there():
    port = free_port()
    assert roll(*members(4, port)) == [None] * 4
    # And the port is free again at once: JAX listens on it next.
    with socket.create_server(('', port)):
        pass


def test_order_of_arrival_does_not_matter():
    first, *others = members(3, free_port())
    verdicts = []
    threads = [threading.Thread(target=call_roll, args=(o, 10)) for o in others]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    verdicts = roll(first)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert verdicts == [None]


def test_disagreement_on_how_many():
    verdicts = roll(*members(2, free_port(), says=[2, 3]))
    assert len(verdicts) == 2
    for verdict in verdicts:
        assert 'process 0 has num_processes 2' in verdict
        assert 'number 1 has 3' in verdict


def test_two_of_one_number():
    verdicts = roll(*members(3, free_port(), ids=[0, 1, 1]))
    assert sum(
        'two processes say that they are number 1' in (v or '') for v in verdicts
    )
    assert None not in verdicts


def test_one_is_missing():
    began = time.monotonic()
    verdicts = roll(*members(3, free_port())[:2], timeout=1.5)
    assert time.monotonic() - began < 15
    for verdict in verdicts:
        assert 'waited in vain for process [2] of 3' in verdict


def test_no_coordinator():
    [verdict] = roll(members(2, free_port())[1], timeout=1.0)
    assert 'process 1 cannot reach the coordinator (process 0) at 127.0.0.1' in verdict
    assert 'refused' in verdict


def test_no_such_host():
    member = Member('no-such-host.invalid:1234', 2, 1)
    [verdict] = roll(member, timeout=1.0)
    assert 'cannot reach the coordinator' in verdict


def test_port_in_use():
    with socket.create_server(('', 0)) as server:
        [verdict] = roll(members(2, server.getsockname()[1])[0])
    assert 'process 0 cannot listen on port' in verdict
    assert 'is another run using it?' in verdict


def test_strangers_on_the_port_are_ignored():
    port = free_port()
    first, second = members(2, port)
    thread = threading.Thread(target=call_roll, args=(first, 20))
    thread.start()
    for noise in (b'', b'GET / HTTP/1.1\r\n\r\n', b'{"process_id": 1}\n', b'[1]\n'):
        while True:
            try:
                with socket.create_connection(('127.0.0.1', port), 5) as stranger:
                    stranger.sendall(noise)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    assert roll(second) == [None]
    thread.join(10)
    assert not thread.is_alive()
