"""A resumable grid of training runs: every task with every variant of the algorithm and every seed."""
