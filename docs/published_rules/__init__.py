"""Derivative rules that others have published, checked: `python -m docs.published_rules [PACKAGE ...]`.

A row is a function of an installed package that carries a rule of its own (`jax.custom_jvp`, `jax.custom_vjp`, a linear
solve or an implicit function whose derivative is not that of its iterations). What JAX gives with that rule is held
against autodiff of the function without it and against differences of the function in ball arithmetic; where the
function is the limit of an iteration, against autodiff of a closed form.

The rows stand in `of_jax.py`, `of_solvers.py`, `of_distributions.py` and `of_transport.py`; the table is written to
docs/published_rules.md, and the mistakes are described in docs/found.md.
"""
