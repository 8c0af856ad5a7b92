"""Who the workers are, and whether they are there."""

import contextlib
import json
import socket
import threading
import time

import pytest

from loop import distribute
from loop.distribute import cluster, peers
from loop.distribute.cluster import Cluster, ClusterError


def _config(**changes):
    config = {
        "cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
        "task": {"type": "worker", "index": 1},
    }
    return json.dumps({**config, **changes})


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


def _together(count, meet):
    """Runs `meet(index)` for all workers at once; what each raised, or None."""
    outcomes = [None] * count

    def one(index):
        try:
            meet(index)
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return outcomes


def test_workers_and_place_are_read():
    """The addresses come in order, a chief before the workers, and the index counts them all."""
    assert cluster.from_tf_config(_config()) == Cluster(("10.0.0.1:2222", "10.0.0.2:2222"), 1)
    jobs = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    place = {"type": "worker", "index": 0}
    assert cluster.from_tf_config(_config(cluster=jobs, task=place)) == Cluster(
        ("c:3", "a:1", "b:2"), 1
    )
    place = {"type": "chief", "index": 0}
    assert cluster.from_tf_config(_config(cluster=jobs, task=place)).index == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected JSON"),
        ("{'cluster': {}}", "expected JSON"),
        ("[]", "expected an object"),
        ('{"clutser": {}, "task": {}}', "did you mean 'cluster'"),
        ('{"task": {"type": "worker", "index": 0}}', "expected 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "expected 'task'"),
        (_config(task={"type": "worker", "index": 2}), "expected 0 to 1, found 2"),
        (_config(task={"type": "worker", "index": -1}), "found -1"),
        (_config(task={"type": "worker", "index": "1"}), "found '1'"),
        (_config(task={"type": "worker", "index": True}), "found True"),
        (_config(task={"type": "wroker", "index": 0}), "expected one of ['worker']"),
        (_config(task={"type": "chief", "index": 0}), "expected one of ['worker']"),
        (_config(task={"type": ["worker"], "index": 0}), "task type"),
        (_config(task={"index": 0}), "expected 'type'"),
        (_config(task="worker"), "expected an object"),
        (_config(cluster={"workers": ["a:1"]}), "did you mean 'worker'"),
        (_config(cluster={"worker": ["a:1"], "ps": ["b:2"]}), "found 'ps'"),
        (_config(cluster={"worker": "a:1"}), "expected a list of 'host:port'"),
        (_config(cluster={"worker": ["a", "b:2"]}), "expected a list of 'host:port'"),
        (_config(cluster={"worker": ["a:0", "b:2"]}), "expected a list of 'host:port'"),
        (_config(cluster={"worker": ["a:1", "a..b:2"]}), "expected a list of 'host:port'"),
        (_config(cluster={"worker": ["a:1", "a\0b:2"]}), "expected a list of 'host:port'"),
        (_config(cluster={"worker": ["a:1", "\ud800:2"]}), "expected a list of 'host:port'"),
        (_config(cluster={"worker": ["a:1", "a" * 300 + ":2"]}), "expected a list of 'host:port'"),
        ("[" * 100_000, "expected JSON"),
        (_config(cluster={"worker": ["a:70000", "b:2"]}), "expected a list of 'host:port'"),
        (_config(cluster={"worker": ["a:1", "a:1"]}), "expected different addresses"),
        (_config(cluster={"worker": []}), "index"),
        (_config(cluster={}), "task type"),
    ],
)
def test_what_tensorflow_would_train_alone_on_is_refused(text, named):
    """Each mistake in TF_CONFIG gives one line that says where it is."""
    with pytest.raises(ClusterError) as raised:
        cluster.from_environment({"TF_CONFIG": text})
    line = str(raised.value)
    assert named in line
    assert "TF_CONFIG" in line
    assert "\n" not in line


def test_without_a_cluster_there_is_none():
    """Neither variable set, or a Slurm step of one task: not a run of several workers."""
    assert cluster.from_environment({}) is None
    assert cluster.from_environment({"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_a_slurm_step_that_cannot_be_read_is_refused(monkeypatch):
    """Several tasks without the other variables are no silent run of one."""
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(ClusterError, match="slurm: expected a job step's variables"):
        cluster.from_environment({"SLURM_STEP_NUM_TASKS": "2"})
    with pytest.raises(ClusterError, match=r"SLURM_STEP_NUM_TASKS.*'two'"):
        cluster.from_environment({"SLURM_STEP_NUM_TASKS": "two"})


def test_all_workers_meet_and_leave_their_ports_free():
    """Three workers that start at different times all return, and each can listen again."""
    workers = tuple(f"127.0.0.1:{port}" for port in _free_ports(3))

    def meet(index):
        time.sleep(0.3 * index)
        cluster.meet(Cluster(workers, index), seconds=20).close()
        host, port = workers[index].split(":")
        socket.create_server((host, int(port))).close()

    assert _together(3, meet) == [None, None, None]


def test_a_missing_worker_is_named_within_the_deadline():
    """Two of three come: both say in one line who did not, and none goes on."""
    workers = tuple(f"127.0.0.1:{port}" for port in _free_ports(3))
    started = time.monotonic()
    outcomes = _together(
        2, lambda index: distribute.multi_worker(Cluster(workers, index), meet_seconds=1.5)
    )
    assert time.monotonic() - started < 20
    for index, outcome in enumerate(outcomes):
        assert isinstance(outcome, ClusterError)
        assert f"worker {index}: after 1.5 s without worker 2 at {workers[2]}" in str(outcome)
        assert "\n" not in str(outcome)


def test_a_worker_of_another_run_is_not_met():
    """Workers that disagree about how many there are do not take each other for theirs."""
    workers = tuple(f"127.0.0.1:{port}" for port in _free_ports(3))
    views = [Cluster(workers[:2], 0), Cluster(workers, 1)]
    outcomes = _together(2, lambda index: cluster.meet(views[index], seconds=1.0))
    assert all(isinstance(outcome, ClusterError) for outcome in outcomes)


def test_strangers_do_not_disturb_the_meeting():
    """Whoever connects and says something else, or nothing, is passed over."""
    workers = tuple(f"127.0.0.1:{port}" for port in _free_ports(2))
    done = threading.Event()

    def disturb():
        host, port = workers[0].split(":")
        while not done.is_set():
            with contextlib.suppress(OSError):
                stranger = socket.create_connection((host, int(port)), timeout=1)
                with stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n")
            time.sleep(0.05)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        outcomes = _together(2, lambda i: cluster.meet(Cluster(workers, i), seconds=20).close())
    finally:
        done.set()
        disturber.join()
    assert outcomes == [None, None]


def test_a_taken_port_is_named():
    """Another program listens on the worker's port: one line says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"cannot listen on {address}.*in use"):
            cluster.meet(Cluster((address, "127.0.0.1:1"), 0), seconds=1)


_RESET = """Graph execution error:

Detected at node CollectiveReduceV2 defined at (most recent call last):
<stack traces unavailable>
Collective ops is aborted by: recvmsg:Connection reset by peer
Additional GRPC error information from remote target /job:worker/replica:0/task:1 while calling /X:
:UNKNOWN:Error received from peer  {grpc_message:"recvmsg:Connection reset by peer", grpc_status:14}
"""
_SILENT = """Graph execution error:

Detected at node while/CollectiveReduceV2 defined at (most recent call last):
Collective ops is aborted by: Error reported from /job:worker/task:1: The following tasks are \
unhealthy (stopped sending heartbeats):
/job:worker/replica:0/task:1
/job:worker/replica:0/task:2
The tasks have crashed. Check the task logs for an earlier error, or scheduler events.
"""
_SILENT_CHIEF = """Graph execution error:

Collective ops is aborted by: Deadline Exceeded

RPC: /tensorflow.CoordinationService/Heartbeat
The error could be from a previous operation. Restart your program to reset.
"""


def _peers(*connections):
    """Worker 0 of as many as there are connections, and one more."""
    addresses = tuple(f"10.0.0.{index}:2222" for index in range(len(connections) + 1))
    return peers.Peers(0, addresses, dict(enumerate(connections, 1)), {})


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (_RESET, "worker 1 at 10.0.0.1:2222: Connection reset by peer"),
        (_SILENT, "worker 1 at 10.0.0.1:2222, worker 2 at 10.0.0.2:2222: Collective ops is"),
        (_SILENT_CHIEF, "worker 0 at 10.0.0.0:2222: Collective ops is aborted by: Deadline"),
        ("Collective ops is aborted by: Socket closed", "another worker: Collective ops is"),
    ],
    ids=["reset", "silent", "silent_chief", "unnamed"],
)
def test_a_lost_worker_whose_connection_is_open_is_read_from_the_error(message, lost):
    """Which and why, from what TensorFlow 2.21 wrote when a worker was killed or stopped."""
    with contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(2)]
        assert cluster.lost_worker(message, _peers(*(pair[0] for pair in pairs))).startswith(lost)


@pytest.mark.parametrize("message", [_RESET, _SILENT, _SILENT_CHIEF])
def test_a_lost_worker_whose_process_ended_is_known_by_its_connection(message):
    """Whatever the error says: TensorFlow names now one, now another, now none."""
    (here, far), (other, open_end) = socket.socketpair(), socket.socketpair()
    with here, far, other, open_end:
        ending = threading.Timer(0.2, far.shutdown, [socket.SHUT_RDWR])
        ending.start()
        said = cluster.lost_worker(message, _peers(other, here))
        ending.join()
    assert said.startswith("worker 2 at 10.0.0.2:2222: ")


@pytest.mark.parametrize(
    "message",
    [
        "Graph execution error:\n\nindices[0] = 9 is not in [0, 9)",
        "ConnectionRefusedError: [Errno 111] Connection refused\n [[{{node PyFunc}}]]",
    ],
    ids=["index", "connection"],
)
def test_another_error_of_a_step_is_no_lost_worker(message):
    """An error of the user's own graph or data set is raised as it is while all workers live."""
    here, far = socket.socketpair()
    with here, far:
        assert cluster.lost_worker(message, _peers(here)) is None
