"""What the reference says at a point, kept for the next rule of the same forward."""

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from jaxbias.verify.problem import Arrays


class Truth(NamedTuple):
    """What the reference says at one point.

    Attributes:
        expected: true gradients, in float64.
        tolerance: how far from them a right rule may be, element by element.
        rounded: gradients with every equation rounded to the dtype it was traced in; None if not asked for.
        finite: whether all forward values are finite.
    """

    expected: Arrays
    tolerance: Arrays
    rounded: Arrays | None
    finite: bool


class Memory:
    """The last truths, so that a second rule for the same forward finds them at hand.

    A truth is found again by its content: the traced program with its constants, and the inputs. A forward whose code
    or whose closed-over values change is another program, so nothing stale is served, and no array of the user is kept
    alive. Large truths are not kept.
    """

    LARGEST, TOTAL = 8_000_000, 64_000_000  # bytes

    def __init__(self):
        self.truths: OrderedDict[Any, Truth] = OrderedDict()
        self.bytes = 0

    @staticmethod
    def _size(truth: Truth) -> int:
        return sum(np.asarray(x).nbytes for x in (*truth.expected, *truth.tolerance, *(truth.rounded or ())))

    def get(self, key: Any) -> Truth | None:
        if key in self.truths:
            self.truths.move_to_end(key)
            return self.truths[key]
        return None

    def put(self, key: Any, truth: Truth) -> None:
        size = self._size(truth)
        if size > self.LARGEST:
            return
        for x in (*truth.expected, *truth.tolerance):
            if isinstance(x, np.ndarray):
                x.flags.writeable = False
        self.truths[key] = truth
        self.bytes += size
        while self.bytes > self.TOTAL:
            _, oldest = self.truths.popitem(last=False)
            self.bytes -= self._size(oldest)


memory = Memory()
