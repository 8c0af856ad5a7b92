"""Contender tapestep_records: ours, augmented examples from TFRecord shards."""

from experiments.benchmark.peers import fed

if __name__ == "__main__":
    fed.serve(fed.records)
