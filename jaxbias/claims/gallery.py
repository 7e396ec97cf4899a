"""Every figure of the claims by name, and how they are written."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxbias._files import write
from jaxbias.claims import diagrams, figures
from jaxbias.claims._tools import own_settings

FIGURES: dict[str, Callable[[], Any]] = {
    "activation-shift": figures.activation_shift,
    "regression": figures.regression,
    "node-link": diagrams.node_link,
    "layers": diagrams.layers,
    "neuron": diagrams.neuron,
    "flow": diagrams.flow,
    "snippet": diagrams.snippet,
    "snippet-path": diagrams.snippet_path,
    "depth": figures.depth,
    "learning-curves": figures.learning_curves,
    "decision-boundaries": figures.decision_boundaries,
    "feature-maps": figures.feature_maps,
}
"""Name of the file → the function that draws it."""

UNDER: dict[str, tuple[str, ...]] = {
    "A0.1": ("neuron",),
    "A0.11": ("node-link",),
    "A0.17": ("layers",),
    "A1.13": ("learning-curves",),
    "A1.17": ("depth",),
    "A3.3": ("flow",),
    "A3.13": ("snippet", "snippet-path"),
    "A4.1": ("feature-maps",),
    "A4.4": ("activation-shift",),
    "A4.8": ("regression",),
    "E4": ("decision-boundaries",),
}
"""Number of a claim → the figures that illustrate it."""


def svg(draw: Callable[[], Any]) -> str:
    """The figure that `draw` returns, as SVG text; drawn under the settings of the experiments."""
    with own_settings():
        figure = draw()
    text = io.StringIO()
    with figures.styled():
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def save(name: str, path: str | Path) -> None:
    """Write the figure of this name as SVG, whole or not at all."""
    write(path, svg(FIGURES[name]))


def write_all(directory: str | Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Write figures, all by default, as `<name>.svg` and return their paths.

    Raises:
        ValueError: the directory cannot be made or written.
    """
    directory = check_directory(directory)
    paths = [directory / f"{name}.svg" for name in names or FIGURES]
    for path in paths:
        save(path.stem, path)
    return paths


def check_directory(directory: str | Path) -> Path:
    """Make the directory of the figures, before any work starts.

    Raises:
        ValueError: it cannot be made or written.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writing"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"--figures: directory {directory} cannot be written ({error.strerror}). Name another one."
        ) from None
    return directory
