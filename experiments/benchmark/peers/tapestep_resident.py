"""Contender tapestep_resident: ours, augmented examples on the device."""

from experiments.benchmark.peers import fed

if __name__ == "__main__":
    fed.serve(fed.resident)
