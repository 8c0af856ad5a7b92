"""The data sets of the experiments: readers, downloads, shards."""
