"""A study as a graph of units that several processes share: on this machine, by Slurm, or as shards anywhere."""
