"""Contender orbit_xla: see `orbit_trainer`."""

from experiments.benchmark.peers import orbit_trainer, worker

if __name__ == "__main__":
    worker.serve(orbit_trainer.xla)
