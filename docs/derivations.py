"""Write docs/derivations.md, ten functions as `jb.derive` derives them: `python -m docs.derivations`."""

import inspect
from pathlib import Path

import jaxbias as jb
from docs.forwards import FORWARDS, SMALL

PAGE = Path(__file__).with_name("derivations.md")
HEAD = """\
# Ten derivations, as they are printed

<!-- This page is written by `python -m docs.derivations`: change the functions of `docs/forwards.py`, then run it. -->

Each function stands as its author wrote it; below it what `print(jb.derive(function, args))` prints. The left column is
the forward, from the top down. The right column is the backward pass, read from below: beside each value its error
signal, `d_z` for ∂L/∂z, and beside each argument its gradient. `.code` holds the same as a module that runs without
this library, `.latex` as mathematics, and `.function` as a `jax.custom_vjp`. What is printed has passed `jb.verify`.
The backward of a loop is a loop from the last pass to the first; what a pass has to know of its forward, the forward
stacks.
"""


CLOSED = """\
## Layer norm in closed form

`jb.derive(layer_norm, args, style="closed").code`: the error signals of mean and variance put into each other. That the
entries of `xhat` add up to 0 is proved from the lines of the forward, and leaves two means.
"""
NAMES = (
    "dense_tanh", "layer_norm", "rms_norm", "cross_entropy", "attention", "swiglu", "rnn", "lstm_cell", "embedding",
    "gaussian_likelihood",
)  # fmt: skip


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for name in NAMES:
        function, shapes = FORWARDS[name]
        source = inspect.getsource(function).partition("\n")[2].rstrip()  # below the decorator
        shown = str(jb.derive(function, shapes(*SMALL)))
        title = name.replace("_", " ").capitalize()
        parts.append(f"\n## {title}\n\n```python\n{source}\n```\n\n```text\n{shown}\n```\n")
    function, shapes = FORWARDS["layer_norm"]
    closed = jb.derive(function, shapes(*SMALL), style="closed").code
    parts.append(f"\n{CLOSED}\n```python\n{closed}```\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
