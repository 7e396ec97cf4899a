"""What every leaf of anyone's params is for: weight, bias, scale, embedding; and optimizer masks made from it.

A leaf's role is read from its use (`jaxbias.foreign.uses`), never from its rank or name: the bias of a Flax
attention layer has rank 2, that of an Equinox convolution rank 3, and `x.ndim != 1` takes both for weights.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jaxbias._doors import check_number, describe
from jaxbias.foreign import _nnx
from jaxbias.foreign.traced import split_params
from jaxbias.foreign.uses import Uses, trace_uses
from jaxbias.leaves import FREEZE, TRAIN
from jaxbias.params import Tree

ROLES = ("weight", "bias", "scale", "embedding", "other")


def roles(fn: Callable, params: Tree, *args: Any, unused: str = "error", **options: Any) -> Tree:
    """Role of every leaf of params in `fn(params, *args, **options)`, in a tree like params.

    A leaf that is used in several ways gets all of its roles, joined in the order of their use: the table of a tied
    embedding is "embedding+weight". A use counts only where nothing but layout lies between the leaf and the data; what
    is computed from params alone (a penalty Σw² added to the loss) decides only for leaves that have no other use.

    The use decides also where a name suggests something else. A learned position that is added to the tokens is a
    "bias", for z = a + b is all that is done with it, whether it was sliced or looked up at fixed places; looked up by
    data (`tokens[ids] + positions[places]`) it is an "embedding". Rows that data choose are a "weight" where data are
    multiplied with them, as in a mixture of experts, and then what the same choice adds is a "bias". What data multiply
    is a "scale", but a "weight" where they only change it before other data are multiplied with it (a modulated kernel)
    or where the products are added up along its own axis. Class and mask tokens, prompts, sinks, learned queries and
    starts, and what a gate mixes in, (1 - gate) * leaf, are "other": `no_decay(roles, also=("other",))`.

    Args:
        fn: the model or its loss, any traceable function.
        params: pytree of arrays. Leaves that are not arrays (functions in an Equinox module) become None. A module of
            Flax nnx gives the State of its Params; in a State what is no Param becomes None.
        args: data, arrays or `jax.ShapeDtypeStruct`: nothing is computed.
        unused: "error", or the role given to a leaf that never meets data.
        options: keyword arguments of fn, such as `train=False`; only arrays among them are data.

    Raises:
        ValueError: a leaf never meets data, and `unused` is "error"; an `unused` that is no role.

    Warns:
        UserWarning: a leaf is "other" because the operation at which it meets data is not known here.
    """
    if unused not in ("error", *ROLES):
        raise ValueError(f'roles: unused must be "error" or a role ({", ".join(ROLES)}), got {unused!r}.')
    uses = trace_uses(fn, params, args, options)
    if unused == "error":
        uses.check_all_met("roles")
    _warn_of_unknown(uses)
    _, params = _nnx.split_module(fn, params)
    return split_params(params).rebuild(uses.roles(unused), None)


def _warn_of_unknown(uses: Uses) -> None:
    """Say which leaves are "other" only because their operation is not known."""
    unknown = [
        f"{path} by {use.place.equation.name} at {use.place.equation.source or 'an unknown line'}"
        for i, path in enumerate(uses.paths)
        for use in uses.of(i)[:1]
        if uses.role(i) == "other" and not use.known
    ]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        warnings.warn(
            f'roles: "other" stands for a use that is not known here: {"; ".join(unknown[:3])}{more}. no_decay lets '
            f'these leaves decay; no_decay(roles, also=("other",)) does not.',
            stacklevel=3,
        )


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


def roles_summary(fn: Callable, params: Tree, *args: Any, **options: Any) -> RolesSummary:
    """Role, shape and size of every leaf of any model, and the share of its biases; nothing is computed.

    Args:
        fn, params, args, options: as for `roles`; a leaf that never meets data is listed as "other".
    """
    uses = trace_uses(fn, params, args, options)
    rows = zip(uses.paths, uses.roles(), uses.leaves)
    return RolesSummary(tuple((path, role, tuple(np.shape(x)), int(np.prod(np.shape(x)))) for path, role, x in rows))


# --- masks and labels for optax ---------------------------------------------------------------------------------------


def _is_role(leaf: Any) -> bool:
    return isinstance(leaf, str)


def _check(roles: Tree, names: Iterable[str], function: str) -> None:
    for leaf in jax.tree.leaves(roles) or [None]:
        if not _is_role(leaf):
            raise TypeError(
                f"{function}: roles must be a tree of role names as jb.roles returns it, got a leaf of type "
                f"{type(leaf).__name__}. Call {function}(jb.roles(fn, params, *args), ...)."
            )
    for name in names:
        if name not in ROLES:
            raise ValueError(f"{function}: {name!r} is no role; the roles are {', '.join(ROLES)}.")


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
    return _nnx.for_optax(jax.tree.map(lambda leaf: has_role(leaf, names), roles))


def labels(roles: Tree, default: str | None = None, /, **groups: str | Iterable[str]) -> Tree:
    """Tree of labels for `optax.partition`.

    Without groups each leaf is labelled with its role ("embedding+weight" for a tied table). With groups, a leaf gets
    the name of the first group that holds *all* its roles: `labels(roles, "adam", muon="weight")` leaves a tied
    embedding, which is a weight too, with Adam. `jb.muon_dimension_numbers` tells Muon their rows and columns.

    Args:
        default: label of leaves that fit no group.
        groups: label = role, or several roles.

    Raises:
        ValueError: a name that is no role, or a leaf that fits no group while there is no default.
    """
    for group, names in groups.items():
        if not isinstance(names, Iterable):
            raise TypeError(f"labels: {group} must be a role or several, got {describe(names)}.")
    sets = {label: {names} if isinstance(names, str) else set(names) for label, names in groups.items()}
    _check(roles, {name for names in sets.values() for name in names}, "labels")

    def label(leaf: str) -> str:
        if not sets:
            return leaf
        group = next((name for name, members in sets.items() if set(leaf.split("+")) <= members), default)
        if group is None:
            raise ValueError(f"labels: a leaf with role {leaf!r} fits no group; pass a default as second argument.")
        return group

    return _nnx.for_optax(jax.tree.map(label, roles))


def no_decay(roles: Tree, also: Iterable[str] = ()) -> Tree:
    """The mask for `optax.adamw(mask=...)` under which biases and scales do not decay: False there, True elsewhere.

    A table of learned positions that is added to the tokens is a bias and does not decay; the same table looked up by
    data, as an embedding is, decays (see `roles`). Embeddings are kept from it too by `mask(roles, "weight")`.

    Args:
        also: roles that do not decay either: `("other",)` for class and mask tokens, prompts, sinks and queries.

    Example: `optax.adamw(1e-3, mask=jb.no_decay(jb.roles(model, params, x), also=("other",)))`.

    Raises:
        TypeError: `roles` is not what `jb.roles` returned.
        ValueError: a name in `also` that is no role.
    """
    names = (also,) if isinstance(also, str) else tuple(also)
    _check(roles, names, "no_decay")
    return _nnx.for_optax(jax.tree.map(lambda leaf: not has_role(leaf, ("bias", "scale", *names)), roles))


def bias_only(roles: Tree) -> Tree:
    """Labels "train" at biases and "freeze" elsewhere, for `jb.with_frozen`, `jb.train.fit` or `optax.partition`.

    Source: E. Ben Zaken, S. Ravfogel, Y. Goldberg, BitFit (2022).
    """
    _check(roles, (), "bias_only")
    return _nnx.for_optax(jax.tree.map(lambda leaf: TRAIN if leaf == "bias" else FREEZE, roles))


def lr_by_role(roles: Tree, default: float = 1.0, **factors: float) -> optax.GradientTransformation:
    """Multiplies the updates of every leaf by the factor of its role; chain it after an optimizer.

    A leaf with several roles takes the smallest of their factors. Example:
    `optax.chain(optax.adam(1e-3), jb.lr_by_role(roles, bias=2.0, scale=0.5))`.

    Raises:
        TypeError: `roles` is not what `jb.roles` returned, a factor that is no number.
        ValueError: a name that is no role.
    """
    _check(roles, factors, "lr_by_role")
    for name, factor in {"default": default, **factors}.items():
        check_number(factor, "lr_by_role", name)
    tree = jax.tree.map(lambda leaf: min(factors.get(name, default) for name in leaf.split("+")), roles)
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda factor, update: (factor * update).astype(update.dtype), tree, updates)
    )
