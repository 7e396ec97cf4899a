"""Evaluates the loss of one example again, with taps at the contacts.

A tap leaves the value z of its contact as it is. It has a slot, an array that takes no part in the forward pass; the
"gradient" with respect to the slot is what the tap reads in the backward pass: the squared norm of the contact's
weight gradient, or δ itself. So one backward pass under `vmap` reads every tap of every example, with unbatched
weights, and in a scan or a remat nothing is stored that the plain backward pass would not store.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbias import _jaxpr
from jaxbias._jaxpr import Equation, Program
from jaxbias._meshes import beside, varying
from jaxbias._numerics import accumulation_dtype
from jaxbias.foreign.capture import _factors
from jaxbias.foreign.capture._plan import Method, Tap
from jaxbias.foreign.sites import Scope

Slots = dict[int, Any]


def others(tap: Tap, values: list[Any]) -> list[Any]:
    """The operands of a contact, other than the weight, that its gradient depends on."""
    if tap.site.equation.name in ("add", "add_any", "sub"):
        return []
    return [value for i, value in enumerate(values) if i != tap.site.position]


def _read_norm(tap: Tap, method: Method):
    """z -> z; the gradient with respect to the slot () is the squared norm of this contact's weight gradient."""

    @jax.custom_vjp
    def read(z, slot, operands):
        return z

    def forward(z, slot, operands):
        return z, operands

    def backward(operands, delta):
        site = tap.site
        if method.at_contact and site.equation.name != "dot_general":
            norm = _form(tap, operands, delta)
        else:
            factors = _factors.factors(site.equation, site.position, operands, delta)
            norm = (_factors.formed_norm if method.at_contact else _factors.gram_norm)(factors, method.block)
        return delta, norm, None

    read.defvjp(forward, backward)
    return read


def _form(tap: Tap, operands: list[Any], delta: Any) -> Any:
    """Squared norm of the gradient at a contact that is linear in the weight, by its transpose."""
    equation = tap.site.equation

    def contact(root):
        (weight,) = _jaxpr.run_in_jax(tap.operand, [root])
        if equation.name in ("add", "add_any", "sub"):
            return jnp.broadcast_to(weight, delta.shape)
        values = list(operands)
        values.insert(tap.site.position, weight)
        return equation.bind(*values)[0]

    (root,) = tap.operand.inputs
    form = beside(delta, tap.operand.shapes[root], tap.operand.dtypes[root])
    (gradient,) = jax.linear_transpose(contact, form)(delta)
    return jnp.sum(jnp.square(gradient.astype(accumulation_dtype(gradient.dtype))))


@jax.custom_vjp
def _read_delta(z, slot):
    """z -> z; the gradient with respect to the slot (shape of z) is δ."""
    return z


_read_delta.defvjp(lambda z, slot: (z, None), lambda _, delta: (delta, delta))


def zero_slots(methods: list[Method], keep: bool) -> Slots:
    """Slots of every tap for one example: a number where only the norm is read, else of the shape of δ."""
    slots = {}
    for method in methods:
        for tap in method.taps:
            site = tap.site
            shape, dtype = site.equation.shapes.outputs[0], site.equation.dtypes.outputs[0]
            if method.name == "shared" or keep:
                slot = jnp.zeros((*tap_lengths(tap), *shape), dtype)
            else:
                slot = jnp.zeros((), accumulation_dtype(dtype))
            slots[tap.number] = varying(slot, site.equation.varying)
    return slots


def tap_lengths(tap: Tap) -> tuple[int, ...]:
    """Lengths of the scans around a tap."""
    return tuple(n for link, n in zip(tap.links, tap.lengths) if link != "call")


def shift_value(program: Program, leaf: int) -> int:
    """The value at which the gradient of a formed leaf is read: the leaf, or the wider float it is cast to at once.

    A sum of many δ in bfloat16 would lose what the float32 that the model computes with still has.
    """
    uses = [equation for equation in program.equations if leaf in equation.inputs]
    if len(uses) == 1 and uses[0].name == "convert_element_type" and leaf not in program.outputs:
        (out,) = uses[0].outputs
        if program.dtypes[out].itemsize > program.dtypes[leaf].itemsize:
            return out
    return leaf


class Tapped:
    """The loss of one example with taps; `(leaves, data, slots) -> (outputs, operands read at the taps)`.

    Args:
        methods: one per leaf.
        keep: read δ and hand the other operands out at every tap, not only where a leaf is shared.
    """

    def __init__(self, program: Program, methods: list[Method], keep: bool = False):
        self.top = program
        self.taps: dict[tuple[Scope, int], list[tuple[Tap, Method]]] = {}
        self.keep = keep
        for method in methods:
            for tap in method.taps:
                self.taps.setdefault((tap.site.scope, tap.site.index), []).append((tap, method))

    def __call__(self, leaves: list[Any], data: list[Any], slots: Slots, shifts: Slots):
        """Outputs of the program, and the other operands read at the taps, by number of the tap.

        Args:
            shifts: added to values of the outermost program, by number of the value (see `shift_value`).
        """
        return self.program(self.top, [*leaves, *data], slots, (), shifts)

    def program(self, program: Program, inputs: list[Any], slots: Slots, scope: Scope, shifts: Slots | None = None):
        read: dict[int, Any] = {}
        shifts = shifts or {}
        inputs = [x + shifts[i] if i in shifts else x for i, x in zip(program.inputs, inputs)]

        def apply(index: int, equation: Equation, values: list[Any]) -> list[Any]:
            within = self.within(scope, index) if equation.bodies else ()
            if within:
                outputs, readings = self.call(equation, values, {n: slots[n] for n in within}, scope, index)
                read.update(readings)
                return outputs
            outputs = equation.bind(*values)
            for tap, method in self.taps.get((scope, index), ()):
                if method.name == "shared" or self.keep:
                    outputs[0] = _read_delta(outputs[0], slots[tap.number])
                    read[tap.number] = others(tap, values)
                else:
                    outputs[0] = _read_norm(tap, method)(outputs[0], slots[tap.number], others(tap, values))
            return [x + shifts[i] if i in shifts else x for i, x in zip(equation.outputs, outputs)]

        return _jaxpr.run_by(apply, program, inputs), read

    def within(self, scope: Scope, index: int) -> list[int]:
        """Numbers of the taps in the bodies of one equation."""
        depth = len(scope)
        inner = [
            taps for (s, _), taps in self.taps.items() if s[:depth] == scope and len(s) > depth and s[depth][0] == index
        ]
        return [tap.number for taps in inner for tap, _ in taps]

    def call(self, equation: Equation, values: list[Any], slots: Slots, scope: Scope, index: int):
        """An equation with a body that holds taps."""
        bodies = [(body, (*scope, (index, i))) for i, body in enumerate(equation.bodies)]
        if equation.name == "scan":
            return self.scan(equation, values, slots, *bodies[0])
        if equation.name == "remat":
            body, inner = bodies[0]
            policy, prevent = equation.params["policy"], equation.params["prevent_cse"]
            prevent = prevent if isinstance(prevent, bool) else any(prevent)
            run = jax.checkpoint(lambda s, v: self.program(body, v, s, inner), policy=policy, prevent_cse=prevent)
            return run(slots, values)
        branches = [lambda s, v, body=body, inner=inner: self.program(body, v, s, inner)[0] for body, inner in bodies]
        return lax.switch(values[0], branches, slots, list(values[1:])), {}

    def scan(self, equation: Equation, values: list[Any], slots: Slots, body: Program, scope: Scope):
        n_consts, n_carry = equation.carried
        consts, carry, xs = values[:n_consts], values[n_consts : n_consts + n_carry], values[n_consts + n_carry :]
        # a norm adds up over the iterations, δ is read in each of them
        summed = {n: slot for n, slot in slots.items() if slot.ndim == 0}
        stacked = {n: slot for n, slot in slots.items() if slot.ndim}

        def step(carry, sliced):
            xs, stacked = sliced
            outputs, read = self.program(body, [*consts, *carry, *xs], summed | stacked, scope)
            return outputs[:n_carry], (outputs[n_carry:], read)

        carry, (ys, read) = lax.scan(
            step,
            carry,
            (xs, stacked),
            length=equation.params["length"],
            reverse=equation.params["reverse"],
            unroll=equation.params["unroll"],
        )
        return [*carry, *ys], read
