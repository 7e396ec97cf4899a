"""What `verify.sharded` answers, and the words for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxbias.verify.report import Report


class Finding(NamedTuple):
    """How the values of all devices relate to what they should be.

    Attributes:
        kind: of a leaf "right", "factor", "replicas", "order", "shape", "unexplained"; of the loss "loss differs",
            "loss scaled", "local count", "added once per device", "divided in the forward".
        summed: axes over which a sum (or a mean, where losses average) is missing.
        axes: axes that a factor comes from, "/name" for a division; those along which replicas differ.
        factor: values are so many times the truth.
        owners: of each device the one whose slice it holds; or the devices whose values are off.
        leaf: that the forward adds too often.
    """

    kind: str
    summed: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    factor: float = 1.0
    owners: tuple[int | None, ...] = ()
    leaf: str = ""
    value: float = 0.0
    wanted: float = 0.0
    got: tuple[int, ...] = ()
    want: tuple[int, ...] = ()


@dataclass(frozen=True)
class ShardedReport:
    """Answer of `verify.sharded`; print it.

    Attributes:
        leaves: path of each leaf of params → `Finding`.
        loss: what is wrong with the loss; None where nothing is.
        loss_over: axis → "sum" or "mean": how the losses of devices make that of the whole.
        mesh: axis → size.
        batch_axes: axes that the data are cut over.
        further: of leaves that no factor, sum or order explains, what `verify.gradient` says of them.
    """

    leaves: Mapping[str, Finding]
    loss: Finding | None
    loss_over: Mapping[str, str]
    mesh: Mapping[str, int]
    batch_axes: frozenset[str]
    further: Report | None = None

    @property
    def ok(self) -> bool:
        """Whether loss and gradients of every device are right."""
        return self.loss is None and all(finding.kind == "right" for finding in self.leaves.values())

    def __bool__(self) -> bool:
        raise TypeError("The truth value of a report is not defined. Use report.ok, or print the report.")

    @property
    def lines(self) -> dict[str, str]:
        """Path of each leaf that is wrong, "loss" first where it is → what is wrong with it, in a few words."""
        of_loss = {} if self.loss is None else {"loss": self._of_loss(self.loss)}
        return of_loss | {path: self._of_leaf(f) for path, f in self.leaves.items() if f.kind != "right"}

    def __str__(self) -> str:
        shape = " × ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        over = ", ".join(f"{kind} over '{axis}'" for axis, kind in self.loss_over.items()) or "the same on all devices"
        width = max(map(len, ("loss", *self.leaves)))
        rows = [f"{'right' if self.ok else 'WRONG'}   mesh {shape}; loss: {over}"]
        lines = self.lines
        rows += [f"  {path:{width}}  {lines.get(path, 'right')}" for path in ("loss", *self.leaves)]
        if self.further is not None:
            rows += ["", "Of what is not explained so:", str(self.further)]
        return "\n".join(rows)

    def _of_loss(self, finding: Finding) -> str:
        values = f"{finding.value:.6g}, not {finding.wanted:.6g}"
        if finding.kind == "local count":
            return f"{values}: each device divides by the count of its own rows, not by the global one"
        if finding.kind == "added once per device":
            return f"{values}: {finding.leaf} is added once per device of {_quoted(finding.axes)} in the forward"
        if finding.kind == "divided in the forward":
            return f"{values}: {finding.leaf} is divided by the size of {_quoted(finding.axes)} in the forward"
        if finding.kind == "loss scaled":
            return f"{values}: {self._scaled(finding)}"
        return values

    def _of_leaf(self, finding: Finding) -> str:
        if finding.kind == "factor":
            missing = [
                f"not {'averaged' if self.loss_over.get(axis) == 'mean' else 'summed'} over '{axis}'"
                for axis in finding.summed
            ]
            return "; ".join([*missing, *([self._scaled(finding)] if finding.axes else [])])
        if finding.kind == "order":
            moved = [f"{k} holds that of {owner}" for k, owner in enumerate(finding.owners) if owner != k]
            return "shards in the wrong order: device " + ", ".join(moved)
        if finding.kind == "replicas":
            return f"replicas differ along {_quoted(finding.axes)}; off on devices {_listed(finding.owners)}"
        if finding.kind == "shape":
            return f"each device holds shape {finding.got}, its slice has {finding.want}"
        return f"off on devices {_listed(finding.owners)}, by no factor, sum or order of this mesh"

    def _scaled(self, finding: Finding) -> str:
        words = []
        for name in finding.axes:
            axis = name.removeprefix("/")
            mean, batch = self.loss_over.get(axis) == "mean", axis in self.batch_axes
            if name.startswith("/"):
                words.append(
                    f"averaged twice over '{axis}'" if mean
                    else f"a mean in place of a sum over '{axis}'" if batch
                    else f"divided by the size of '{axis}'"
                )  # fmt: skip
            else:
                words.append(
                    f"a sum in place of a mean over '{axis}'" if mean
                    else f"summed twice over '{axis}'" if batch
                    else f"counted once per device of '{axis}'"
                )  # fmt: skip
        times = (
            f"{finding.factor:g} times the truth" if finding.factor > 1 else f"1/{1 / finding.factor:g} of the truth"
        )
        return f"{'; '.join(words)} ({times})"


def _quoted(axes: tuple[str, ...]) -> str:
    return " and ".join(f"'{axis}'" for axis in axes)


def _listed(owners: tuple[int | None, ...]) -> str:
    return ", ".join(map(str, owners))
