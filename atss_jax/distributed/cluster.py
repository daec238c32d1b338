"""Which processes form a run: read from flags or the launcher, and checked.

If a coordinator cannot be reached, JAX aborts without a message that helps the user;
if two processes disagree on how many there are, it starts nevertheless. So before JAX
starts, process 0 calls the roll on the coordinator's port: each process reports its
number, and all get the same verdict.
"""

import dataclasses
import importlib.util
import json
import os
import re
import socket
import time
from collections.abc import Mapping

# For launchers that name no port: one of the ephemeral range, chosen by the job.
_FIRST_PORT, _PORT_COUNT = 61440, 4096
_REPORTED = ('num_processes', 'process_id')  # what a process reports at the roll call


@dataclasses.dataclass(frozen=True)
class Member:
    """One process of a run.

    Attributes:
        coordinator: `host:port` of process 0.
        num_processes: number of processes in the run.
        process_id: number of this one, from 0.
        alone_on_host: whether no other process of the run is on this machine.
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


# Flags and launchers -----------------------------------------------------------------


def find(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Member | None:
    """This process, from flags or from what a launcher set in the environment.

    Args:
        coordinator, num_processes, process_id: flags; None: not given. Then
            JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are used, and
            then what SLURM's srun and Open MPI's mpirun set.
        environment: the environment variables.

    Returns:
        None if there is no sign of more than one process.

    Raises:
        ValueError: some of the three are missing or wrong.
    """
    launched = _slurm(environment) or _open_mpi(environment)
    given = {
        'coordinator': coordinator or environment.get('JAX_COORDINATOR_ADDRESS'),
        'num_processes': _number(num_processes, 'JAX_NUM_PROCESSES', environment),
        'process_id': _number(process_id, 'JAX_PROCESS_ID', environment),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given.get('num_processes') == 1:
        return None
    if not given and (not launched or launched['num_processes'] == 1):
        return None
    fields = launched | given
    missing = [
        f'--{name}' for name in ('coordinator', *_REPORTED) if name not in fields
    ]
    if missing:
        raise ValueError(
            f'{", ".join(missing)} not given, and no launcher set it; known: {fields}'
        )
    return Member(**fields)


def _number(flag, name, environment):
    text = environment.get(name)
    if flag is not None or text is None:
        return flag
    if not text.isdigit():
        raise ValueError(f'{name}={text!r} in the environment: expected a number')
    return int(text)


def _slurm(environment):
    """Fields of `Member` within `srun`; the script of a batch job is not within it."""
    names = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID')
    if not all(name in environment for name in names):
        return {}
    job, nodes, count, process_id = (environment[name] for name in names)
    port = environment.get('JAX_COORDINATOR_PORT') or _port(int(job))
    tasks = int(environment.get('SLURM_STEP_NUM_TASKS', count))
    return {
        'coordinator': f'{first_node(nodes)}:{port}',
        'num_processes': tasks,
        'process_id': int(process_id),
        'alone_on_host': tasks == int(environment.get('SLURM_STEP_NUM_NODES', tasks)),
    }


def _port(job):
    """The same port for all processes of a job, and most likely no other job's."""
    return _FIRST_PORT + job % _PORT_COUNT


def first_node(nodes: str) -> str:
    """The first name of SLURM's list: 'node[007-009,11]-a,x' gives 'node007-a'."""
    first = re.match(r'(?:[^,\[]|\[[^\]]*\])+', nodes)[0]
    return re.sub(r'\[(\d+)[^\]]*\]', r'\1', first)


def _open_mpi(environment):
    """Fields of `Member` within `mpirun`; Open MPI 5 does not tell the coordinator."""
    if 'OMPI_COMM_WORLD_SIZE' not in environment:
        return {}
    fields = {
        'num_processes': int(environment['OMPI_COMM_WORLD_SIZE']),
        'process_id': int(environment['OMPI_COMM_WORLD_RANK']),
        'alone_on_host': environment.get('OMPI_COMM_WORLD_LOCAL_SIZE', '1') == '1',
    }
    # Such as '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911'.
    uri = environment.get('OMPI_MCA_orte_hnp_uri', '')
    match = re.match(r'(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))', uri)
    if match:
        job, host, ipv6_host = match.groups()
        port = environment.get('JAX_COORDINATOR_PORT') or _port(int(job) // 4096)
        fields['coordinator'] = f'{host or f"[{ipv6_host}]"}:{port}'
    return fields


def leave_to_jax(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether JAX itself finds the processes: on a Cloud TPU, in a Kubernetes job."""
    if environment.get('JAX_PLATFORMS', 'tpu').startswith('tpu') and _has_tpu():
        return True
    names = ('KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX')
    return all(name in environment for name in names)


def _has_tpu():
    chips = any(os.path.exists(path) for path in ('/dev/accel0', '/dev/vfio/0'))
    return chips and importlib.util.find_spec('libtpu') is not None


# Roll call ---------------------------------------------------------------------------


def call_roll(member: Member, timeout: float) -> None:
    """Waits until all processes are present and agree on who they are.

    Args:
        member: this process.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: some did not come in time, or they disagree. Raised on all of them.
    """
    until = time.monotonic() + timeout
    if member.process_id == 0:
        _collect_reports(member, until)
    else:
        _report(member, until)


def _collect_reports(member, until):
    """Process 0: waits for a report of every other process, and answers them all."""
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
            report = _read(connection)
            if report is None or set(report) != {*_REPORTED}:
                connection.close()  # a port scanner, or a process that died
                continue
            connections.append(connection)
            problem = _disagreement(member, present, report, peer[0])
            present.add(report['process_id'])
        _answer_all(connections, problem)
    if problem:
        raise ValueError(problem)


def _listen(port):
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ('', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(('', port), backlog=1024)


def _disagreement(member, present, report, peer):
    """What contradicts the earlier reports, or None."""
    sender = f'the process at {peer} that says it is number {report["process_id"]}'
    if report['num_processes'] != member.num_processes:
        return (
            f'processes disagree on how many they are: process 0 has num_processes '
            f'{member.num_processes}, {sender} has {report["num_processes"]}'
        )
    if report['process_id'] in present:
        return (
            f'two processes say that they are number {report["process_id"]}: {sender}'
        )
    return None


def _answer_all(connections, problem):
    """Sends the verdict to all processes, then waits for them to hang up.

    The side that hangs up first keeps the port busy for a while. That must not be this
    side, since JAX is about to listen on the port.
    """
    for connection in connections:
        with connection:
            _write(connection, {'problem': problem})
            _read(connection)


def _report(member, until):
    """Other processes: report to process 0 until there is a verdict."""
    reason = 'no answer'
    while time.monotonic() < until:
        try:
            remaining = max(until - time.monotonic(), 0.01)
            timeout = min(remaining, 5)
            with socket.create_connection(member.address, timeout) as connection:
                _write(connection, {name: getattr(member, name) for name in _REPORTED})
                # Process 0 may wait for others; it gives up a little earlier than this.
                connection.settimeout(remaining + 5)
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
        return  # the other side is gone; whoever waits for it reports that


def _read(connection):
    """One line of JSON; None if the other side hangs up or sends something else."""
    try:
        with connection.makefile('rb') as lines:
            message = json.loads(lines.readline(10_000))
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
