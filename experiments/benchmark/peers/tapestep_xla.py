"""Contender tapestep_xla: ours with the setting given, a candidate of `--compile=auto`."""

from experiments.benchmark.peers import tapestep, worker

if __name__ == "__main__":
    worker.serve(tapestep.fixed("xla"))
