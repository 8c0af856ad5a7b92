"""Contender torch_eager: see `torch_loop`."""

from experiments.benchmark.peers import torch_loop, worker

if __name__ == "__main__":
    worker.serve(torch_loop.eager)
