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
from loop.distribute import cluster
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


@contextlib.contextmanager
def _killed_at_the_end(*processes):
    """Where a test fails, a process that waits for ever must not keep it from ending."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)
        yield


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


_MEETS = """
peers = cluster.meet(workers, seconds=60)
watch = peers.watch() if {watches} else None
print("met", flush=True)
assert sys.stdin.readline() == "go on\\n"
"""
# What a worker does after it has met the others and before TensorFlow has.
_LOST = {
    "killed": "time.sleep(600)",
    "raises": "raise ValueError('of the user')",
    "refused by TensorFlow": """
        import tensorflow as tf
        from loop import distribute
        from loop.distribute import strategies
        def refused(cluster_resolver):
            raise tf.errors.UnavailableError(None, None, "no")
        tf.distribute.MultiWorkerMirroredStrategy = refused
        strategies.meet = lambda *_, **__: peers
        try:
            distribute.multi_worker(workers)
        except cluster.ClusterError:
            time.sleep(600)
        """,
}


@pytest.mark.parametrize("way", _LOST)
def test_a_worker_lost_before_tensorflow_met_it_ends_the_other(way):
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
        _MEETS.format(watches=way != "refused by TensorFlow") + textwrap.dedent(_LOST[way]),
    )
    with _killed_at_the_end(survivor, victim):
        assert victim.stdout.readline() == "met\n"
        time.sleep(3)
        assert survivor.poll() is None
        began = time.monotonic()
        victim.stdin.write("go on\n")
        victim.stdin.flush()
        if way == "killed":
            victim.kill()
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
    with _killed_at_the_end(survivor, victim):
        assert survivor.stdout.readline() == "trained\n", survivor.stderr.read()
        assert victim.stdout.readline() == "trained\n", victim.stderr.read()
        victim.kill()
        _, errors = survivor.communicate("go on\n", timeout=30)
    assert survivor.returncode == 1
    last = errors.rstrip().splitlines()[-1]
    lost = f"loop.errors.WorkerLostError: worker 0 of 2 lost worker 1 at 127.0.0.1:{ports[1]}: "
    assert last.startswith(lost), last


_FORKS = """
        import os
        child = os.fork()
        if not child:
            {child}
        """


@pytest.mark.parametrize(
    ("end", "status", "lost"),
    [
        ("pass", 0, False),
        ("sys.exit()", 0, False),
        ("raise SystemExit(2)", 2, True),
        ("raise ValueError('of the user')", 1, True),
        ("raise KeyboardInterrupt", -signal.SIGINT, True),
        ("import os; os._exit(0)", 0, True),
        # Neither what a forked child says as it ends nor one that lives on hides its parent's end.
        (_FORKS.format(child="sys.exit(0)") + "os.waitpid(child, 0); sys.exit(3)", 3, True),
        (_FORKS.format(child="time.sleep(60); os._exit(0)") + "os.kill(os.getpid(), 9)", -9, True),
    ],
)
def test_only_a_worker_that_exits_with_0_is_done(end, status, lost):
    """The other goes on past the time it would have had; after any other end it is ended."""
    ports = _free_ports(2)
    going = _start(
        0,
        ports,
        """
        peers = cluster.meet(workers, seconds=60)
        watch = peers.watch(seconds=0.5)
        assert sys.stdin.readline() == "ended\\n"
        time.sleep(2)
        print("went on")
        """,
    )
    first = _start(
        1,
        ports,
        f"""
        watch = cluster.meet(workers, seconds=60).watch(seconds=0.5)
        {end}
        """,
    )
    with _killed_at_the_end(going, first):
        assert first.wait(90) == status
        output, errors = going.communicate("ended\n", timeout=60)
    if lost:
        assert going.returncode == -signal.SIGKILL
        assert f"worker 0 of 2 lost worker 1 at 127.0.0.1:{ports[1]}" in errors
    else:
        assert (going.returncode, output) == (0, "went on\n"), errors


@pytest.mark.parametrize("why", ["signal", "own signal", "not finite"])
def test_a_worker_that_stops_with_a_status_waits_for_the_chief_to_save(why, tmp_path):
    """All leave together: the end of one would be a loss to the chief that still writes."""
    ports = _free_ports(2)
    body = f"""
        import os, signal
        import numpy as np, tensorflow as tf
        import loop
        from loop.run import directory as run_directory, signals as signals_of
        from loop.checkpoint import asynchronous
        replicas = loop.distribute.multi_worker(workers, lost_seconds=1)
        with replicas.scope():
            weight = tf.Variable(0.5, name="weight")
            optimizer = loop.optimizers.SGD(0.01)
            step = loop.GradientStep(lambda batch: batch["x"] * weight, [weight], optimizer)
        values = np.ones(4096, np.float32)
        values[80 if {why == "not finite"} else 4096:] = np.nan
        feed = loop.feeds.Arrays({{"x": values}}, batch_size=8, shuffle=False)

        def slowly(write):
            def slow(*arguments):
                time.sleep(4)
                return write(*arguments)
            return slow

        asynchronous.write = slowly(asynchronous.write)
        run_directory.checkpoint.save = slowly(run_directory.checkpoint.save)

        def told(trainer):
            if index == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        import contextlib
        own = {why == "own signal"}
        with contextlib.nullcontext() if own else loop.StopSignals() as signals:
            with loop.Trainer(
                step=step,
                feed=feed,
                state={{"weight": weight, "optimizer": optimizer}},
                replicas=replicas,
                directory={str(tmp_path)!r},
                compile="graph",
                actions=[loop.Every(20, told)],
                stop_signals=signals,
            ) as trainer:
                trainer.train(until=1000)
            sys.exit(signals_of.exit_code(trainer.stop_signal))
        """
    chief, other = (_start(index, ports, body) for index in range(2))
    with _killed_at_the_end(chief, other):
        _, errors = chief.communicate(timeout=120)
        _, of_other = other.communicate(timeout=60)
    status = 1 if why == "not finite" else 143
    assert (chief.returncode, other.returncode) == (status, status), errors + of_other
    step = 10 if why == "not finite" else 20
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{step:012d}"]
    if why == "not finite":
        assert "NonFiniteError: step 10 is not finite" in errors
        assert "NonFiniteError: step 10 is not finite" in of_other
