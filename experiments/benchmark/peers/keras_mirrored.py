"""Contender keras_mirrored: see `keras_fit`."""

from experiments.benchmark.peers import keras_fit, worker

if __name__ == "__main__":
    worker.serve(keras_fit.mirrored)
