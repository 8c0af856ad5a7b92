"""Contender tapestep_lazy: ours with Adam on the batch's rows alone, as PyTorch's SparseAdam."""

import functools

from experiments.benchmark.peers import tapestep, worker

if __name__ == "__main__":
    worker.serve(functools.partial(tapestep.Tapestep, sparse="lazy"))
