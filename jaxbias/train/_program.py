"""The steps of all epochs as one compiled program, or as a compiled step that Python calls."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array

from jaxbias.train._placement import Placement, constrained
from jaxbias.train._step import Learned, Objective, row_order, take
from jaxbias.train._stream import AHEAD, read_ahead, together


class Carry(NamedTuple):
    learned: Learned
    train: dict[str, Array]  # (epochs, steps)
    validation: dict[str, Array]  # (epochs,)


class Compiled(NamedTuple):
    """A program and the bytes that one call of it allocates.

    Attributes:
        run: `(carry, data, validation, start, stop) -> carry`.
    """

    run: Callable[..., Carry]
    needed: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled, run: Callable[..., Carry], sharing_memory: int) -> "Compiled":
        figures = compiled.memory_analysis()
        if figures is None:  # a backend that does not say
            return cls(run, 0)
        of_one = figures.temp_size_in_bytes + figures.output_size_in_bytes - figures.alias_size_in_bytes
        return cls(run, of_one * sharing_memory)


class Program(NamedTuple):
    """The steps of all epochs, compiled as one program or called one by one."""

    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    key: Array
    batch_size: int
    placement: Placement

    def order(self, epoch: Any, rows: int) -> Array:
        return row_order(self.key, epoch, rows, self.batch_size)

    def step(self, learned: Learned, batch: Any) -> tuple[Learned, dict[str, Array]]:
        after, record = self.objective.step(learned, batch, self.optimizer)
        return self._laid_out(after), record

    def _laid_out(self, learned: Learned) -> Learned:
        """What is carried stays where it is, so that a program can be called with what it returned."""
        return learned if self.placement.mesh is None else constrained(learned, self.placement.of_learned(learned))

    def before(self, learned: Learned, batch: Any, steps: int, validation: Any, epochs: int) -> Carry:
        """Nothing recorded yet.

        Args:
            batch: arrays or shapes.
            steps: of an epoch.
        """
        record = jax.eval_shape(self.step, learned, batch)[1]
        train = {name: np.zeros((epochs, steps), result.dtype) for name, result in record.items()}
        scores = {name: np.zeros((epochs,), result.dtype) for name, result in record.items() if validation is not None}
        # As numpy, which needs no program to compile, as `jnp.zeros` does for every new shape.
        return Carry(learned, *self.placement.put((train, scores)))

    def after_epoch(self, carry: Carry, validation: Any, epoch: Any) -> Carry:
        if validation is None:
            return carry
        results = self.objective.evaluate(carry.learned, validation, self.batch_size)
        return carry._replace(validation=_set(carry.validation, epoch, results))

    def compiled(self, loop: str, carry: Carry, data: Any, validation: Any) -> "Compiled":
        """The epochs from start to before stop; those of a stream are fed, several batches with a call or singly."""
        loops = {
            "scan": self._one_program,
            "steps": self._step_by_step,
            "fed": self._fed,
            "fed singly": partial(self._fed, several=False),
        }
        return loops[loop](carry, data, validation)

    def _one_program(self, carry, data, validation):
        def run(carry, data, validation, start, stop):
            def one_epoch(epoch, carry):
                learned, records = jax.lax.scan(
                    lambda learned, rows: self.step(learned, take(data, rows)),
                    carry.learned,
                    self.order(epoch, len(data[0])),
                )
                carry = Carry(learned, _set(carry.train, epoch, records), carry.validation)
                return self.after_epoch(carry, validation, epoch)

            return jax.lax.fori_loop(start, stop, one_epoch, carry)

        lowered = jax.jit(run, donate_argnums=0, out_shardings=self._out(carry)).lower(carry, data, validation, 0, 0)
        compiled = lowered.compile()
        return Compiled.of(compiled, compiled, self.placement.sharing_memory)

    def _out(self, carry: Carry) -> Any:
        return None if self.placement.mesh is None else jax.tree.map(lambda array: array.sharding, carry)

    def _step_by_step(self, carry, data, validation):
        del validation
        out = self._out(carry)
        order = jax.jit(lambda epoch: self.order(epoch, len(data[0])), out_shardings=self.placement.everywhere)
        after_epoch = jax.jit(self.after_epoch, donate_argnums=0, out_shardings=out)

        def step(carry, data, order, epoch, i):
            learned, record = self.step(carry.learned, take(data, order[i]))
            return carry._replace(learned=learned, train=_set(carry.train, (epoch, i), record))

        lowered = jax.jit(step, donate_argnums=0, out_shardings=out).lower(carry, data, order(0), 0, 0)
        compiled_step = lowered.compile()

        def run(carry, data, validation, start, stop):
            for epoch in range(start, stop):
                rows = order(epoch)
                for i in range(len(rows)):
                    carry = compiled_step(carry, data, rows, epoch, i)
                carry = after_epoch(carry, validation, epoch)
            return carry

        return Compiled.of(compiled_step, run, self.placement.sharing_memory)

    def _fed(self, carry, stream, validation, several=True):
        """A chunk of batches with every call; one batch where a loop inside of the program would be slow."""
        del validation
        out, length = self._out(carry), together(stream.first, self.batch_size, stream.steps) if several else 1
        after_epoch = jax.jit(self.after_epoch, donate_argnums=0, out_shardings=out)
        send = lambda chunk: self.placement.sent(chunk, self.batch_size)

        def call(carry, chunk, epoch, first, steps):
            def step(i, carry):
                learned, record = self.step(carry.learned, take(chunk, i))
                return carry._replace(learned=learned, train=_set(carry.train, (epoch, first + i), record))

            carry = step(0, carry) if length == 1 else jax.lax.fori_loop(0, steps, step, carry)
            return carry, carry.train["loss"][epoch, first]

        example = send(tuple(np.broadcast_to(part, (length, *part.shape)) for part in map(np.asarray, stream.first)))
        jitted = jax.jit(call, donate_argnums=0, out_shardings=None if out is None else (out, None))
        compiled = jitted.lower(carry, example, 0, 0, 0).compile()

        def run(carry, stream, validation, start, stop):
            firsts = range(0, stream.steps, length)
            chunks = (
                (epoch, first, chunk)
                for epoch in range(start, stop)
                for first, chunk in zip(firsts, stream.epoch(epoch, length))
            )
            begun: deque[Array] = deque()
            for epoch, first, chunk in read_ahead(chunks, lambda read: (*read[:2], send(read[2]))):
                carry, loss = compiled(carry, chunk, epoch, first, min(length, stream.steps - first))
                begun.append(loss)
                if len(begun) > AHEAD:  # else a slow device would have the chunks of many calls waiting for it
                    begun.popleft().block_until_ready()
                if first == firsts[-1] and validation is not None:
                    carry = after_epoch(carry, validation, epoch)
            return carry

        return Compiled.of(compiled, run, self.placement.sharing_memory)


def _set(buffers: dict[str, Array], index: Any, values: dict[str, Array]) -> dict[str, Array]:
    return {name: buffer.at[index].set(values[name]) for name, buffer in buffers.items()}
