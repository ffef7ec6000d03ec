"""The files of one run (config, checkpoints, metrics, locks), its data, and its model."""
