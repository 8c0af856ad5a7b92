"""The end of a worker is seen by the others, however it ended and whatever they wait for."""

import contextlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

_WORKER = """
import sys, time
from loop import cluster
index, ports = int(sys.argv[1]), sys.argv[2:4]
workers = cluster.Cluster(tuple(f"127.0.0.1:{port}" for port in ports), index)
"""


def _start(index, ports, body):
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER + textwrap.dedent(body), str(index), *map(str, ports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


def test_a_worker_killed_before_tensorflow_met_it_ends_the_other():
    """The strategy's constructor waits for it, deaf to signals; the process ends in one line."""
    ports = _free_ports(2)
    survivor = _start(
        0,
        ports,
        """
        from loop import distribute
        distribute.multi_worker(workers, lost_seconds=2)
        """,
    )
    victim = _start(
        1,
        ports,
        """
        peers = cluster.meet(workers, seconds=60)
        print("met", flush=True)
        time.sleep(600)
        """,
    )
    with survivor, victim:
        assert victim.stdout.readline() == "met\n"
        time.sleep(3)
        assert survivor.poll() is None
        victim.kill()
        began = time.monotonic()
        _, errors = survivor.communicate(timeout=30)
        assert time.monotonic() - began > 1.5
    assert survivor.returncode == -signal.SIGKILL
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert f"worker 0 of 2 lost worker 1 at 127.0.0.1:{ports[1]}" in lines[0]
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "what",
    [
        "replicas.gather([1])",
        "compiled.run(chunk, 1)",
        "trainer.evaluate()",
        "evaluation.compiled('graph', replicas).compile()",
    ],
)
def test_a_killed_worker_is_named_to_a_loop_of_one_s_own(what):
    """Whatever the survivor does next: the error's one line says who was lost, and it ends."""
    ports = _free_ports(2)
    body = f"""
        import numpy as np, tensorflow as tf
        import loop
        replicas = loop.distribute.multi_worker(workers)
        with replicas.scope():
            weight = tf.Variable(0.5, name="weight")
            optimizer = loop.optimizers.SGD(0.01)
            loss = lambda batch: tf.square(batch["x"] - weight)
            step = loop.GradientStep(loss, [weight], optimizer)
        values = np.random.default_rng(3).normal(0.7, 1, 32).astype(np.float32)
        feed = loop.feeds.Arrays({{"x": values}}, batch_size=8, seed=1)
        evaluation = loop.Evaluation(lambda batch: {{"error": batch["x"] - weight}}, feed)
        trainer = loop.Trainer(
            step=step,
            feed=feed,
            state={{"weight": weight, "optimizer": optimizer}},
            replicas=replicas,
            evaluation=evaluation,
            compile="graph",
        )
        trainer.train(until=20)
        trainer.evaluate()
        compiled = trainer.compiled_loop()
        chunk = compiled.prepare(20, 1)
        print("trained", flush=True)
        assert sys.stdin.readline() == "go on\\n"
        {what}
        """
    survivor, victim = (_start(index, ports, body) for index in range(2))
    with survivor, victim:
        assert survivor.stdout.readline() == "trained\n", survivor.stderr.read()
        assert victim.stdout.readline() == "trained\n", victim.stderr.read()
        victim.kill()
        _, errors = survivor.communicate("go on\n", timeout=30)
    assert survivor.returncode == 1
    last = errors.rstrip().splitlines()[-1]
    lost = f"loop.errors.WorkerLostError: worker 0 of 2 lost worker 1 at 127.0.0.1:{ports[1]}: "
    assert last.startswith(lost), last


def test_a_worker_that_is_done_may_go_first():
    """One that ended of itself said so: the other goes on past the time it would have had."""
    ports = _free_ports(2)
    going = _start(
        0,
        ports,
        """
        peers = cluster.meet(workers, seconds=60)
        peers.watch(seconds=0.5)
        assert sys.stdin.readline() == "done\\n"
        time.sleep(2)
        print("went on")
        """,
    )
    first = _start(1, ports, "cluster.meet(workers, seconds=60).watch(seconds=0.5)")
    with going, first:
        assert first.wait(90) == 0
        output, errors = going.communicate("done\n", timeout=60)
    assert (going.returncode, output) == (0, "went on\n"), errors
