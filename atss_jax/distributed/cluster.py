"""Who the processes of a run are: found from flags or the launcher, checked by name.

JAX aborts without a word that a user could use when a coordinator cannot be reached,
and starts happily when two processes disagree on how many they are. So before JAX
starts, process 0 calls the roll on the coordinator's port: every process says who it
is, and all get one verdict.
"""

import dataclasses
import importlib.util
import json
import os
import re
import socket
import time
from collections.abc import Mapping

_FIRST_PORT, _PORTS = (
    61440,
    4096,
)  # of the ephemeral range, for launchers that give none
_SAID = ('num_processes', 'process_id')


@dataclasses.dataclass(frozen=True)
class Member:
    """One process of a run.

    Attributes:
        coordinator: `host:port` of process 0.
        num_processes: how many there are.
        process_id: which one this is, from 0.
        alone_on_host: no other process of the run shares this machine.
    """

    coordinator: str
    num_processes: int
    process_id: int
    alone_on_host: bool = True

    def __post_init__(self):
        host, _, port = self.coordinator.rpartition(':')
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise ValueError(
                f'coordinator {self.coordinator!r}: expected HOST:PORT of process 0, '
                'such as 10.0.0.1:1234'
            )
        if not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f'process_id {self.process_id} of num_processes {self.num_processes}: '
                'expected ids 0 to num_processes - 1, one for each process'
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of process 0."""
        host, _, port = self.coordinator.rpartition(':')
        return host.strip('[]'), int(port)


def find(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Member | None:
    """This process, from flags or what a launcher left in the environment.

    Args:
        coordinator, num_processes, process_id: flags; None: not given. In their place
            count JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, then
            what SLURM's srun and Open MPI's mpirun set.
        environment: variables.

    Returns:
        None where nothing of that says that there is more than one process.

    Raises:
        ValueError: some of the three are missing or wrong.
    """
    launched = _slurm(environment) or _open_mpi(environment)
    found = {
        'coordinator': coordinator or environment.get('JAX_COORDINATOR_ADDRESS'),
        'num_processes': _number(num_processes, 'JAX_NUM_PROCESSES', environment),
        'process_id': _number(process_id, 'JAX_PROCESS_ID', environment),
    }
    given = {name: value for name, value in found.items() if value is not None}
    if given.get('num_processes') == 1:
        return None
    found = launched | given
    missing = [f'--{name}' for name in ('coordinator', *_SAID) if name not in found]
    if not given and (not launched or launched['num_processes'] == 1):
        return None
    if missing:
        raise ValueError(
            f'{", ".join(missing)} not given, and no launcher says it; found: {found}'
        )
    return Member(**found)


def _number(flag, name, environment):
    text = environment.get(name)
    if flag is not None or text is None:
        return flag
    if not text.isdigit():
        raise ValueError(f'{name}={text!r} in the environment: expected a number')
    return int(text)


def _slurm(environment):
    """Inside `srun`; the body of a batch script is not yet a process of the run."""
    names = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID')
    if not all(name in environment for name in names):
        return {}
    job, nodes, count, own = (environment[name] for name in names)
    port = environment.get('JAX_COORDINATOR_PORT') or _FIRST_PORT + int(job) % _PORTS
    tasks = int(environment.get('SLURM_STEP_NUM_TASKS', count))
    return {
        'coordinator': f'{first_node(nodes)}:{port}',
        'num_processes': tasks,
        'process_id': int(own),
        'alone_on_host': tasks == int(environment.get('SLURM_STEP_NUM_NODES', tasks)),
    }


def first_node(nodes: str) -> str:
    """The first name of SLURM's list: 'node[007-009,11]-a,x' gives 'node007-a'."""
    first = re.match(r'(?:[^,\[]|\[[^\]]*\])+', nodes)[0]
    return re.sub(r'\[(\d+)[^\]]*\]', r'\1', first)


def _open_mpi(environment):
    if 'OMPI_COMM_WORLD_SIZE' not in environment:
        return {}
    found = {
        'num_processes': int(environment['OMPI_COMM_WORLD_SIZE']),
        'process_id': int(environment['OMPI_COMM_WORLD_RANK']),
        'alone_on_host': environment.get('OMPI_COMM_WORLD_LOCAL_SIZE', '1') == '1',
    }
    # '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911'; Open MPI 5 has no such variable.
    uri = environment.get('OMPI_MCA_orte_hnp_uri', '')
    match = re.match(r'(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))', uri)
    if match:
        job, *hosts = match.groups()
        port = environment.get('JAX_COORDINATOR_PORT')
        port = port or _FIRST_PORT + int(job) // 4096 % _PORTS
        found['coordinator'] = f'{hosts[0] or f"[{hosts[1]}]"}:{port}'
    return found


def leave_to_jax(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether JAX itself must ask who we are: on a Cloud TPU, in a Kubernetes job."""
    if environment.get('JAX_PLATFORMS', 'tpu').startswith('tpu') and _has_tpu():
        return True
    names = ('KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX')
    return all(name in environment for name in names)


def _has_tpu():
    chips = any(os.path.exists(path) for path in ('/dev/accel0', '/dev/vfio/0'))
    return chips and importlib.util.find_spec('libtpu') is not None


def call_roll(member: Member, timeout: float) -> None:
    """Waits until all processes are there and agree on who they are.

    Args:
        member: this process.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: not all came in time, or they disagree; the same on all of them.
    """
    until = time.monotonic() + timeout
    if member.process_id == 0:
        _call(member, until)
    else:
        _answer(member, until)


def _call(member, until):
    try:
        server = _listen(member.address[1])
    except OSError as error:
        raise ValueError(
            f'process 0 cannot listen on port {member.address[1]}: {error.strerror}; '
            'is another run using it? Choose another port in --coordinator'
        ) from error
    present, connections = {0}, []
    with server:
        problem = None
        while len(present) < member.num_processes and problem is None:
            server.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection, peer = server.accept()
            except TimeoutError:
                missing = sorted(set(range(member.num_processes)) - present)
                problem = (
                    f'waited in vain for process {missing[:20]} of '
                    f'{member.num_processes}: were all started, with '
                    f'--coordinator={member.coordinator}, which they can reach?'
                )
                break
            connection.settimeout(5)
            said = _read(connection)
            if said is None or set(said) != {*_SAID}:
                connection.close()  # a port scanner, or a process that died
                continue
            connections.append(connection)
            problem = _disagreement(member, present, said, peer[0])
            present.add(said['process_id'])
        _tell(connections, problem)
    if problem:
        raise ValueError(problem)


def _listen(port):
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ('', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(('', port), backlog=1024)


def _disagreement(member, present, said, peer):
    who = f'the process at {peer} that says it is number {said["process_id"]}'
    if said['num_processes'] != member.num_processes:
        return (
            f'processes disagree on how many they are: process 0 has num_processes '
            f'{member.num_processes}, {who} has {said["num_processes"]}'
        )
    if said['process_id'] in present:
        return f'two processes say that they are number {said["process_id"]}: {who}'
    return None


def _tell(connections, problem):
    """Gives all the verdict, then waits for them to hang up.

    The side that hangs up first keeps the port busy for a while; it must not be ours,
    since JAX is about to listen on it.
    """
    for connection in connections:
        with connection:
            _write(connection, {'problem': problem})
            _read(connection)


def _answer(member, until):
    reason = 'no answer'
    while time.monotonic() < until:
        try:
            left = max(until - time.monotonic(), 0.01)
            with socket.create_connection(member.address, min(left, 5)) as connection:
                _write(connection, {name: getattr(member, name) for name in _SAID})
                # It may well wait for others; a little longer than it does itself.
                connection.settimeout(left + 5)
                verdict = _read(connection)
        except OSError as error:
            reason, verdict = error.strerror or str(error), None
        if verdict is not None:
            if verdict['problem']:
                raise ValueError(verdict['problem'])
            return
        time.sleep(0.2)
    raise ValueError(
        f'process {member.process_id} cannot reach the coordinator (process 0) at '
        f'{member.coordinator}: {reason}. Is it started, is the address right as seen '
        'from here, and is the port open?'
    )


def _write(connection, message):
    try:
        connection.sendall(json.dumps(message).encode() + b'\n')
    except OSError:
        return  # it went away; whoever waits for it will say so


def _read(connection):
    """One line of JSON; None if the other side hangs up or talks of something else."""
    try:
        with connection.makefile('rb') as lines:
            message = json.loads(lines.readline(10_000))
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
