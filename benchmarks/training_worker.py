"""One training contender in a process of its own: `python -m benchmarks.training_worker JOB` prints one JSON line."""

import json
import sys
import time
from typing import Any

STARTED = time.perf_counter()

import numpy as np  # noqa: E402  (the clock starts before any import)

from benchmarks.contenders import libraries, plain, without_compiling  # noqa: E402


def main(job: dict[str, Any]) -> dict[str, Any]:
    make = CONTENDERS[job["contender"]](job)  # imports
    imported = time.perf_counter()
    arrays = dict(np.load(job["arrays"]))
    began = time.perf_counter()
    trainer = make(arrays)
    first_loss = np.ravel(trainer.first())
    first_step_s = time.perf_counter() - began
    rest = trainer.rest()
    total_s = time.perf_counter() - began
    losses = None if rest is None else np.concatenate([first_loss, np.ravel(rest)])
    out, y = np.asarray(trainer.predict(arrays["x_test"])), arrays["y_test"]
    is_labels = job["workload"]["loss"] == "cross_entropy"
    return {
        "import_s": imported - STARTED,
        "first_step_s": first_step_s if trainer.first_s is None else trainer.first_s(),
        "total_s": total_s,
        "losses": [] if losses is None else losses[:10].tolist(),
        "mean_loss": None if losses is None else float(losses.mean()),
        "score": float((out.argmax(-1) == y).mean() if is_labels else np.square(out - y).mean()),
        "samples": [trainer.again() for _ in range(job["rounds"])],
    }


CONTENDERS = {
    "jaxbias": plain.jaxbias_fit,
    "jax_scan": plain.jax_scan,
    "jax_loop": plain.jax_loop,
    "linen": libraries.linen,
    "haiku": libraries.haiku,
    "nnx": libraries.nnx,
    "equinox": libraries.equinox,
    "keras": libraries.keras,
    "numpy": without_compiling.numpy_by_hand,
    "sklearn": without_compiling.sklearn,
}

if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
