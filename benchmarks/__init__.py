"""Benchmarks: what a bias costs, by hand against autodiff, against the peers. See README.md for the method."""
