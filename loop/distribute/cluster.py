"""The workers of a multi-worker run: who they are, and whether they are there.

With a misspelled TF_CONFIG `tf.distribute.MultiWorkerMirroredStrategy` trains with one worker and
does not say so. With a worker absent its constructor blocks for minutes and ignores SIGTERM. So
TF_CONFIG is checked here, and the workers meet on their own ports, with a deadline, before the
strategy is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from loop.distribute.peers import Peers

_HELLO = b"tapestep worker %d of %d\n"
_SEEN = b"seen\n"
# Of the domain name system.
_LONGEST_HOST = 253
_RETRY_SECONDS = 0.1
_END_SECONDS = 1.0
# What TensorFlow's collectives and coordination say when a worker is gone.
_SIGNS_OF_LOSS = ("Collective ops is aborted", "heartbeat", "remote target /job:worker")
# What any connection says when its other end is gone, also that of a data set.
_SIGNS_OF_AN_END = (
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket closed",
    "failed to connect",
)


class ClusterError(RuntimeError):
    """TF_CONFIG cannot be used, or a worker is not there."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run.

    Attributes:
      workers: "host:port" of each; the first is the chief.
      index: this worker's place in them.
    """

    workers: tuple[str, ...]
    index: int


def from_tf_config(text: str) -> Cluster:
    """Reads TF_CONFIG: {"cluster": {"worker": [...]}, "task": {"type": "worker", "index": 0}}.

    Args:
      text: the variable's value; a "chief" job may be named besides the workers.

    Raises:
      ClusterError: in one line, on anything that TensorFlow would take for a run of one worker.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"TF_CONFIG: expected JSON, found {text[:80]!r} ({error})") from error
    _check_keys(config, "TF_CONFIG", {"cluster": True, "task": True, "rpc_layer": False})
    jobs, task = config["cluster"], config["task"]
    _check_keys(jobs, "TF_CONFIG cluster", {"worker": False, "chief": False})
    _check_keys(task, "TF_CONFIG task", {"type": True, "index": True})
    workers: list[str] = []
    for job in ("chief", "worker"):
        addresses = jobs.get(job, [])
        if not isinstance(addresses, list) or not all(_is_address(a) for a in addresses):
            raise ClusterError(
                f"TF_CONFIG cluster {job}: expected a list of 'host:port', found {addresses!r}"
            )
        if task["type"] == job:
            index, offset, size = task["index"], len(workers), len(addresses)
        workers += addresses
    if task["type"] not in list(jobs):
        raise ClusterError(
            f"TF_CONFIG task type: expected one of {sorted(jobs)}, found {task['type']!r}"
        )
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < size:
        raise ClusterError(f"TF_CONFIG task index: expected 0 to {size - 1}, found {index!r}")
    if len(set(workers)) != len(workers):
        raise ClusterError(f"TF_CONFIG cluster: expected different addresses, found {workers}")
    return Cluster(tuple(workers), offset + index)


def from_slurm() -> Cluster:
    """The cluster of a Slurm job step, by TensorFlow's own resolver.

    Raises:
      ClusterError: outside a Slurm job step.
    """
    try:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver()
        workers = resolver.cluster_spec().as_dict()["worker"]
        return Cluster(tuple(workers), int(resolver.task_id))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"slurm: expected a job step's variables, found {error}") from error


def from_environment(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that TF_CONFIG, or else a Slurm job step of several tasks, names; None if none.

    Raises:
      ClusterError: if it is named wrongly.
    """
    if "TF_CONFIG" in environment:
        return from_tf_config(environment["TF_CONFIG"])
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if not tasks.isdecimal():
        raise ClusterError(f"SLURM_STEP_NUM_TASKS: expected a number, found {tasks!r}")
    return from_slurm() if int(tasks) > 1 else None


def meet(cluster: Cluster, *, seconds: float) -> Peers:
    """Waits until every worker has reached every other one.

    Each worker listens on its own address and connects to the others. It goes on when it has
    reached all and all have reached it, so that no worker waits for one that has left. Then the
    port is free for TensorFlow's server; the connections stay open, so that the end of a worker is
    noticed.

    Args:
      cluster: the workers.
      seconds: how long to wait for all of them.

    Returns:
      The connections; to watch, or to close.

    Raises:
      ClusterError: names the workers that did not come, or the port that is taken.
    """
    others = {index for index in range(len(cluster.workers)) if index != cluster.index}
    accepted: dict[int, socket.socket] = {}
    made: dict[int, socket.socket] = {}
    peers = Peers(cluster.index, cluster.workers, made, accepted)
    if not others:
        return peers
    deadline = time.monotonic() + seconds
    with _listener(cluster) as listener:
        # A thread answers: two workers that connect to each other must not wait for each other.
        answers = threading.Thread(target=_answer, args=(listener, cluster, accepted), daemon=True)
        answers.start()
        while made.keys() != others or accepted.keys() != others:
            if time.monotonic() > deadline:
                peers.close()
                missing = sorted(others - (made.keys() & accepted.keys()))
                raise ClusterError(
                    f"worker {cluster.index}: after {seconds:g} s without "
                    + ", ".join(f"worker {i} at {cluster.workers[i]}" for i in missing)
                    + "; start all workers with one TF_CONFIG, or see why these did not start"
                )
            for index in others - made.keys():
                connection = _call_on(cluster, index)
                if connection is not None:
                    made[index] = connection
            time.sleep(_RETRY_SECONDS)
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
    answers.join()
    return peers


def lost_worker(message: str, peers: Peers) -> str | None:
    """Which worker was lost and how, by the error of a collective; None if it was another error.

    One whose process has ended is known by its connection; one that has stopped, or whose machine
    is silent, by what TensorFlow says.

    Args:
      message: of the `tf.errors.OpError`, many lines.
      peers: of this worker.

    Returns:
      A few words, such as "worker 1 at 10.0.0.2:4711: Connection reset by peer".
    """
    lines = [line.strip() for line in message.splitlines()]
    signs = [line for line in lines if any(s in line for s in _SIGNS_OF_LOSS + _SIGNS_OF_AN_END)]
    if not signs:
        return None
    lost = peers.gone(seconds=_END_SECONDS) or _named(message)
    if not lost and not any(sign in message for sign in _SIGNS_OF_LOSS):
        return None
    who = ", ".join(f"worker {index} at {peers.addresses[index]}" for index in lost)
    cause = re.search(r'grpc_message:"(?:\w+:)?([^"]+)"', message)
    reason = signs[0][:200] if cause is None else cause.group(1)
    return f"{who or 'another worker'}: {reason}"


def _named(message: str) -> list[int]:
    """The workers that an error of TensorFlow 2.21 calls lost."""
    if "RPC: /tensorflow.CoordinationService/Heartbeat" in message:
        return [0]  # who counts the heartbeats of all did not answer
    _, silent, tasks = message.partition("stopped sending heartbeats")
    if silent:
        return [int(task) for task in re.findall(r"^/job:worker\S*/task:(\d+)$", tasks, re.M)]
    return [int(task) for task in re.findall(r"remote target /job:worker\S*/task:(\d+)", message)]


def _answer(listener: socket.socket, cluster: Cluster, accepted: dict[int, socket.socket]) -> None:
    """Keeps the connections of the workers that call, until the listener is shut down."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        index = _caller(connection, cluster)
        if index is None:
            connection.close()
            continue
        # One that calls again did not get the answer, and has closed its end.
        if index in accepted:
            accepted[index].close()
        accepted[index] = connection


def _listener(cluster: Cluster) -> socket.socket:
    host, port = _parts(cluster.workers[cluster.index])
    try:
        return socket.create_server((host, port), backlog=len(cluster.workers))
    except OSError as error:
        raise ClusterError(
            f"worker {cluster.index}: cannot listen on {host}:{port} ({error.strerror}); choose a "
            "free port and this machine's address in TF_CONFIG"
        ) from error


def _call_on(cluster: Cluster, index: int) -> socket.socket | None:
    """Tells another worker that this one is here; the connection, if it answered."""
    with contextlib.ExitStack() as unless_heard, contextlib.suppress(OSError):
        connection = socket.create_connection(_parts(cluster.workers[index]), timeout=1)
        unless_heard.callback(connection.close)
        connection.sendall(_HELLO % (cluster.index, len(cluster.workers)))
        if connection.recv(len(_SEEN), socket.MSG_WAITALL) == _SEEN:
            unless_heard.pop_all()
            return connection
    return None


def _caller(connection: socket.socket, cluster: Cluster) -> int | None:
    """The worker that called, after an answer to it; None if it is no worker of the run."""
    with contextlib.suppress(OSError):
        connection.settimeout(1)
        hello = _line(connection)
        for index in range(len(cluster.workers)):
            if hello == _HELLO % (index, len(cluster.workers)):
                connection.sendall(_SEEN)
                return index
    return None


def _line(connection: socket.socket) -> bytes:
    """What comes up to a newline, at most 64 bytes; no byte after it is read."""
    line = b""
    while len(line) < 64 and not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _is_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    try:
        host.encode("idna")  # As a connection would, whose error names no setting.
    except UnicodeError:
        return False
    named = bool(host) and host.isprintable() and len(host) <= _LONGEST_HOST
    return named and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def _check_keys(value: Any, where: str, allowed: Mapping[str, bool]) -> None:
    """Refuses an object with a key missing or one that is not known: TensorFlow ignores both."""
    if not isinstance(value, dict):
        raise ClusterError(f"{where}: expected an object, found {value!r}")
    for key in value:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ClusterError(f"{where}: expected {sorted(allowed)}, found {key!r}{hint}")
    for key, required in allowed.items():
        if required and key not in value:
            raise ClusterError(f"{where}: expected {key!r}, found only {sorted(value)}")
