"""What every leaf of anyone's params is for: weight, bias, scale, embedding; and optimizer masks made from it.

A leaf's role is read from its use (`jaxbias.foreign.contact`), never from its rank or name: the bias of a Flax
attention layer has rank 2, that of an Equinox convolution rank 3, and `x.ndim != 1` takes both for weights.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxbias.foreign.contact import Analysis, analyse, check_all_met, split_params
from jaxbias.leaves import FREEZE, TRAIN
from jaxbias.params import Tree

ROLES = ("weight", "bias", "scale", "embedding", "other")


def roles(fn: Callable, params: Tree, *args: Any, unused: str = "error") -> Tree:
    """Role of every leaf of params in `fn(params, *args)`, in a tree like params.

    A leaf that is used in several ways gets all of its roles, joined in the order of their use: the table of a tied
    embedding is "embedding+weight". A use counts only where nothing but layout lies between the leaf and the data; what
    is computed from params alone (a penalty Σw² added to the loss) decides only for leaves that have no other use.

    The use decides also where a name suggests something else: a learned position that is added to the tokens is a
    "bias", for z = a + b is all that is done with it; the same table looked up by data (`table[positions]`, with
    positions among the args) is an "embedding". So `no_decay` keeps the first from decaying and lets the second decay.

    Args:
        fn: the model or its loss, any traceable function.
        params: pytree of arrays. Leaves that are not arrays (functions in an Equinox module) become None.
        args: data, arrays or `jax.ShapeDtypeStruct`: nothing is computed.
        unused: "error", or the role given to a leaf that never meets data.

    Raises:
        ValueError: a leaf never meets data, and `unused` is "error".
    """
    analysis = analyse(fn, params, args)
    if unused == "error":
        check_all_met(analysis, "roles")
    return split_params(params).rebuild(leaf_roles(analysis, unused), None)


def leaf_roles(analysis: Analysis, unused: str = "other") -> list[str]:
    """Role of each array leaf, in order."""
    uses_of: list[list[tuple[bool, str]]] = [[] for _ in analysis.paths]
    for site in analysis.sites:
        for i in site.origin.leaves:
            uses_of[i].append((site.origin.layout, site.role))
    return [_join(uses) or unused for uses in uses_of]


def _join(uses: list[tuple[bool, str]]) -> str:
    plain = [role for layout, role in uses if layout]
    names = list(dict.fromkeys(plain or [role for _, role in uses]))
    if len(names) > 1 and "other" in names:  # a known use says more than an unknown one
        names.remove("other")
    return "+".join(names)


@dataclass(frozen=True)
class RolesSummary:
    """Table of any model's leaves; `str` prints it.

    Attributes:
        rows: (path, role, shape, number of entries) of each leaf.
    """

    rows: tuple[tuple[str, str, tuple[int, ...], int], ...]

    @property
    def counts(self) -> dict[str, int]:
        """Role -> number of entries."""
        names = dict.fromkeys(role for _, role, _, _ in self.rows)
        return {name: sum(count for _, role, _, count in self.rows if role == name) for name in names}

    @property
    def bias_share(self) -> float:
        """Entries of biases over all entries."""
        return self.counts.get("bias", 0) / max(1, sum(self.counts.values()))

    def __str__(self) -> str:
        cells = [("leaf", "role", "shape", "entries")]
        cells += [(path, role, str(shape), f"{count:,}") for path, role, shape, count in self.rows]
        cells += [("total", "", "", f"{sum(self.counts.values()):,}")]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines = []
        for *left, count in cells:
            lines.append("  ".join(cell.ljust(w) for cell, w in zip(left, widths)) + "  " + count.rjust(widths[3]))
        return "\n".join([*lines, f"biases: {self.bias_share:.2%} of all entries"])


def roles_summary(fn: Callable, params: Tree, *args: Any) -> RolesSummary:
    """Role, shape and size of every leaf of any model, and the share of its biases; nothing is computed.

    Args:
        fn, params, args: as for `roles`; a leaf that never meets data is listed as "other".
    """
    analysis = analyse(fn, params, args)
    leaves = split_params(params).leaves
    rows = zip(analysis.paths, leaf_roles(analysis), leaves)
    return RolesSummary(tuple((path, role, tuple(np.shape(x)), int(np.prod(np.shape(x)))) for path, role, x in rows))


# --- masks and labels for optax ---------------------------------------------------------------------------------------


def _is_role(leaf: Any) -> bool:
    return isinstance(leaf, str)


def _check(roles: Tree, names: Iterable[str], function: str) -> None:
    for leaf in jax.tree.leaves(roles):
        if not _is_role(leaf):
            raise TypeError(
                f"{function}: roles must be a tree of role names as jb.roles returns it, got a leaf of type "
                f"{type(leaf).__name__}. Call {function}(jb.roles(fn, params, *args), ...)."
            )
    for name in names:
        if name not in ROLES:
            raise ValueError(f"{function}: {name!r} is no role; the roles are {', '.join(ROLES)}.")


def _for_optax(tree: Any) -> Any:
    """optax calls a mask that is callable, and an Equinox module is: hand it over inside a function."""
    return (lambda _: tree) if callable(tree) else tree


def has_role(leaf: str, names: Iterable[str]) -> bool:
    """True where one of the leaf's roles is among `names`."""
    return bool(set(leaf.split("+")) & set(names))


def mask(roles: Tree, *names: str) -> Tree:
    """Tree of bools, True at every leaf one of whose roles is among `names`; for `optax.masked` and `mask=`.

    It is a plain tree. Only where the tree itself is callable (an Equinox module) does it come as a function that
    returns the tree, because optax would call the module.

    A table of learned positions that is added to the tokens is a "bias" here, one that is looked up an "embedding"
    (see `roles`): name both to treat them alike.

    Example: `optax.adamw(1e-3, mask=jb.mask(jb.roles(model, params, x), "weight", "embedding"))`.

    Raises:
        ValueError: a name that is no role.
        TypeError: `roles` is not what `jb.roles` returned.
    """
    _check(roles, names, "mask")
    return _for_optax(jax.tree.map(lambda leaf: has_role(leaf, names), roles))


def labels(roles: Tree, default: str | None = None, /, **groups: str | Iterable[str]) -> Tree:
    """Tree of labels for `optax.partition`.

    Without groups each leaf is labelled with its role ("embedding+weight" for a tied table). With groups, a leaf gets
    the name of the first group that holds *all* its roles: `labels(roles, "adam", muon="weight")` leaves a tied
    embedding, which is a weight too, with Adam.

    Args:
        default: label of leaves that fit no group.
        groups: label = role, or several roles.

    Raises:
        ValueError: a name that is no role, or a leaf that fits no group while there is no default.
    """
    sets = {label: {names} if isinstance(names, str) else set(names) for label, names in groups.items()}
    _check(roles, {name for names in sets.values() for name in names}, "labels")

    def label(leaf: str) -> str:
        if not sets:
            return leaf
        group = next((name for name, members in sets.items() if set(leaf.split("+")) <= members), default)
        if group is None:
            raise ValueError(f"labels: a leaf with role {leaf!r} fits no group; pass a default as second argument.")
        return group

    return _for_optax(jax.tree.map(label, roles))


def no_decay(roles: Tree) -> Tree:
    """The mask for `optax.adamw(mask=...)` under which biases and scales do not decay: False there, True elsewhere.

    A table of learned positions that is added to the tokens is a bias and does not decay; the same table looked up by
    data, as an embedding is, decays (see `roles`). Embeddings are kept from it too by `mask(roles, "weight")`.

    Raises:
        TypeError: `roles` is not what `jb.roles` returned.
    """
    _check(roles, (), "no_decay")
    return _for_optax(jax.tree.map(lambda leaf: not has_role(leaf, ("bias", "scale")), roles))


def bias_only(roles: Tree) -> Tree:
    """Labels "train" at biases and "freeze" elsewhere, for `jb.with_frozen`, `jb.train.fit` or `optax.partition`.

    Source: E. Ben Zaken, S. Ravfogel, Y. Goldberg, BitFit (2022).
    """
    _check(roles, (), "bias_only")
    return _for_optax(jax.tree.map(lambda leaf: TRAIN if leaf == "bias" else FREEZE, roles))


def lr_by_role(roles: Tree, default: float = 1.0, **factors: float) -> optax.GradientTransformation:
    """Multiplies the updates of every leaf by the factor of its role; chain it after an optimizer.

    A leaf with several roles takes the smallest of their factors. Example:
    `optax.chain(optax.adam(1e-3), jb.lr_by_role(roles, bias=2.0, scale=0.5))`.

    Raises:
        ValueError: a name that is no role.
    """
    _check(roles, factors, "lr_by_role")
    tree = jax.tree.map(lambda leaf: min(factors.get(name, default) for name in leaf.split("+")), roles)
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda factor, update: (factor * update).astype(update.dtype), tree, updates)
    )
