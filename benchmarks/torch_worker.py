"""PyTorch's part: `python -m benchmarks.torch_worker JOB` prints its answer as one JSON line.

It imports neither JAX nor this library, so any interpreter that has PyTorch can run it. A job is {"kind": "train",
"workload", "arrays", "threads", "fused", "compile", "rounds"}, {"kind": "networks", "workload", "arrays", "threads",
"fused", "networks"}, {"kind": "op", "name", "shape", "threads", "rounds"} or {"kind": "check", "widths", "batch",
"fast", "threads", "rounds"}. With "in_turns": true it takes its samples one by one, as its caller asks for them.
"""

# The peers' own annotations are narrower than what they accept.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportCallIssue=false, reportFunctionMemberAccess=false

import itertools
import json
import sys
import time

STARTED = time.perf_counter()

import numpy as np  # noqa: E402  (the clock starts before any import)
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

IMPORTED = time.perf_counter()


def model_for(name: str, arrays) -> torch.nn.Module:
    """The workload's network with the given initial weights."""

    def linear(i):
        weight, bias = (torch.from_numpy(arrays[f"{what}{i}"]) for what in ("weight", "bias"))
        layer = torch.nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = weight.T.contiguous(), bias.clone()
        return layer

    def convolution(i):
        weight, bias = (torch.from_numpy(arrays[f"{what}{i}"]) for what in ("weight", "bias"))
        layer = torch.nn.Conv2d(weight.shape[2], weight.shape[3], 3, padding=1)
        layer.weight.data = weight.permute(3, 2, 0, 1).contiguous()
        layer.bias.data = bias.clone()
        return layer.to(memory_format=torch.channels_last)

    class ChannelsLastFlatten(torch.nn.Module):
        """Flatten in the order (height, width, channels), as the last weight expects."""

        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    nn = torch.nn
    return {
        "lin": lambda: nn.Sequential(linear(0)),
        "xor": lambda: nn.Sequential(linear(0), nn.ReLU(), linear(1)),
        "digits_dense": lambda: nn.Sequential(linear(0), nn.ReLU(), linear(1)),
        "text": lambda: language_model(arrays),
        "digits_conv": lambda: nn.Sequential(
            convolution(0),
            nn.ReLU(),
            nn.MaxPool2d(2),
            convolution(1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            ChannelsLastFlatten(),
            linear(2),
        ),
    }[name]()


class Attention(torch.nn.Module):
    """Causal self-attention; q, k and v by one product."""

    def __init__(self, query, key, value, out):
        super().__init__()
        features, self.heads, _ = query[0].shape
        self.qkv, self.out = torch.nn.Linear(features, 3 * features), torch.nn.Linear(features, features)
        weights, biases = zip(*((w.reshape(features, -1).T, b.reshape(-1)) for w, b in (query, key, value)))
        self.qkv.weight.data, self.qkv.bias.data = torch.cat(weights).contiguous(), torch.cat(biases)
        self.out.weight.data = out[0].reshape(-1, features).T.contiguous()
        self.out.bias.data = out[1].clone()

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Beside(torch.nn.Module):
    """A skip connection around layers."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


class Tokens(torch.nn.Module):
    """Rows of the table, and of the positions."""

    def __init__(self, table, positions):
        super().__init__()
        self.table, self.positions = torch.nn.Embedding(*table.shape), torch.nn.Parameter(positions.clone())
        self.table.weight.data = table.clone()

    def forward(self, x):
        return self.table(x) + self.positions[: x.shape[1]]


def language_model(arrays) -> torch.nn.Module:
    """The network of "text", its params in the order of contenders/language.py."""
    count = sum(name.startswith("weight") for name in arrays)
    given = lambda name: torch.from_numpy(np.array(arrays[name])) if name in arrays else None
    params = [(given(f"weight{i}"), given(f"bias{i}")) for i in range(count)]

    def linear(pair):
        layer = torch.nn.Linear(*pair[0].shape)
        layer.weight.data, layer.bias.data = pair[0].T.contiguous(), pair[1].clone()
        return layer

    def norm(pair):
        layer = torch.nn.LayerNorm(len(pair[0]), eps=1e-5)
        layer.weight.data, layer.bias.data = pair[0].clone(), pair[1].clone()
        return layer

    layers: list[torch.nn.Module] = [Tokens(params[0][0], params[1][0])]
    for i in range(2, count - 2, 8):
        norm1, *of_attention, norm2, up, down = params[i : i + 8]
        layers.append(Beside(norm(norm1), Attention(*of_attention)))
        layers.append(Beside(norm(norm2), linear(up), torch.nn.GELU(approximate="tanh"), linear(down)))
    return torch.nn.Sequential(*layers, norm(params[-2]), linear(params[-1]))


def train(job) -> dict:
    began = time.perf_counter()
    arrays = dict(np.load(job["arrays"]))
    name, order = job["workload"]["name"], torch.from_numpy(arrays["order"].astype(np.int64))
    x, x_test = (torch.from_numpy(arrays[k]) for k in ("x", "x_test"))
    y, y_test = (torch.from_numpy(arrays[k]) for k in ("y", "y_test"))
    if name == "digits_conv":
        x, x_test = (each.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for each in (x, x_test))
    is_labels = job["workload"]["loss"] == "cross_entropy"
    if is_labels:
        y, y_test = y.long(), y_test.long()
    model = model_for(name, arrays)
    rate = job["workload"]["learning_rate"]
    if job["workload"]["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), rate)
    else:
        optimizer = torch.optim.Adam(model.parameters(), rate, fused=job["fused"] or None)
    if name == "text":  # of tokens, a row for each
        x, x_test = x.long(), x_test.long()
        loss_of = lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten())
    else:
        loss_of = F.cross_entropy if is_labels else F.mse_loss
    forward = torch.compile(model) if job["compile"] else model

    def step(rows):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(forward(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        return loss.detach()

    losses = [step(order[0])]
    first_step_s = time.perf_counter() - began
    losses += [step(rows) for rows in order[1:]]
    losses = [float(loss) for loss in losses]
    total_s = time.perf_counter() - began
    with torch.no_grad():
        out = model(x_test)
        score = (out.argmax(-1) == y_test).float().mean() if is_labels else F.mse_loss(out, y_test)
    return {
        "import_s": IMPORTED - STARTED,
        "first_step_s": first_step_s,
        "total_s": total_s,
        "losses": losses[:10],
        "mean_loss": float(np.mean(losses)),
        "score": float(score),
        "samples": [each / len(order) for each in timed(lambda: [step(rows) for rows in order], job)],
        "versions": {"torch": torch.__version__},
    }


def networks(job) -> dict:
    """Dense digits networks, one after another; a sample is the time of one of them."""
    arrays, workload = dict(np.load(job["arrays"])), job["workload"]
    x, x_test = (torch.from_numpy(arrays[k]) for k in ("x", "x_test"))
    y, y_test = (torch.from_numpy(arrays[k]).long() for k in ("y", "y_test"))

    def one(i, steps=None):
        prefix = f"network{i}_"
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        began = time.perf_counter()
        model = model_for("digits_dense", own)
        optimizer = torch.optim.Adam(model.parameters(), workload["learning_rate"], fused=job["fused"] or None)
        losses = []
        for rows in torch.from_numpy(own["order"].astype(np.int64))[:steps]:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        with torch.no_grad():
            epochs = torch.stack(losses).reshape(-1, len(x) // workload["batch"]).mean(1).tolist()
            test_loss = float(F.cross_entropy(model(x_test), y_test))
        return time.perf_counter() - began, epochs[0], test_loss

    one(0, steps=len(x) // workload["batch"])  # warms up
    samples, first_loss, test_loss = zip(*(one(i) for i in range(job["networks"])))
    return {
        "samples": samples,
        "compile_s": 0.0,
        "first_loss": first_loss,
        "test_loss": test_loss,
        "versions": {"torch": torch.__version__},
    }


def timed(call, job, repeats=1) -> list[float]:
    """Seconds of a call, `rounds` times; of several calls in a row after one that is not counted, where repeats > 1.

    With "in_turns", every sample is announced by an empty line on stdout and begins with a line on stdin.
    """
    samples = []
    for _ in range(job["rounds"]):
        if job.get("in_turns"):
            print(flush=True)
            sys.stdin.readline()
        if repeats > 1:
            call()
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        samples.append((time.perf_counter() - began) / repeats)
    return samples


def op(job) -> dict:
    """Forward and backward of one operation, channels last."""
    shape = job["shape"]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    n, height, width, channels = shape
    x = draw(n, channels, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
    if job["name"].startswith("max_pool"):
        window, stride = (3, 2) if "3×3" in job["name"] else (2, 2)
        out = F.max_pool2d(x, window, stride)
        delta = draw(*out.shape).contiguous(memory_format=torch.channels_last)

        def run():
            return torch.autograd.grad(F.max_pool2d(x, window, stride), x, delta)

    else:  # the gradient of a small CNN
        nn = torch.nn
        model = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), 10),
        ).to(memory_format=torch.channels_last)  # fmt: skip
        labels = torch.randint(0, 10, (n,), generator=generator)
        params = list(model.parameters())

        def run():
            return torch.autograd.grad(F.cross_entropy(model(x.detach()), labels), params)

    run()
    began = time.perf_counter()
    run()
    repeats = max(1, round(10e-3 / (time.perf_counter() - began)))
    return {"samples": timed(run, job, repeats), "versions": {"torch": torch.__version__}}


def norms(job) -> dict:
    """Norm of the gradient of each example of a dense network, by Opacus (ghost form) or BackPACK."""
    arrays = {name: torch.from_numpy(array) for name, array in np.load(job["arrays"]).items()}
    params = [arrays[f"params{i}"] for i in range(len(arrays) - 2)]
    layers: list[torch.nn.Module] = []
    for weight, bias in zip(params[::2], params[1::2]):
        layer = torch.nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = weight.T.contiguous(), bias.clone()
        layers += [layer, torch.nn.ReLU()]
    model, loss_of = torch.nn.Sequential(*layers[:-1]), torch.nn.CrossEntropyLoss(reduction="sum")
    x, y = arrays["x"], arrays["y"].long()
    if job["peer"] == "opacus":
        import opacus
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        version = opacus.__version__
        options = {"batch_first": True, "loss_reduction": "sum", "max_grad_norm": 1.0, "use_ghost_clipping": True}
        module = GradSampleModuleFastGradientClipping(model, **options)

        def run():
            module.zero_grad(set_to_none=True)
            loss_of(module(x), y).backward()
            return module.get_norm_sample()

    else:
        from importlib.metadata import version as version_of

        from backpack import backpack, extend
        from backpack.extensions import BatchL2Grad

        version = version_of("backpack-for-pytorch")
        module, loss_of = extend(model), extend(loss_of)

        def run():
            module.zero_grad(set_to_none=True)
            with backpack(BatchL2Grad()):
                loss_of(module(x), y).backward()
            return sum(p.batch_l2 for p in module.parameters()).sqrt()

    found = [float(each) for each in run()]
    versions = {"torch": torch.__version__, job["peer"]: version}
    return {"samples": timed(run, job), "norms": found, "versions": versions}


def check(job) -> dict:
    """`torch.autograd.gradcheck` of a dense network with ReLU, in float64."""
    nn, widths = torch.nn, job["widths"]
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, dtype=torch.float64), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    inputs = torch.randn(job["batch"], widths[0], dtype=torch.float64, requires_grad=True), *model.parameters()

    def run():
        call = lambda x, *params: torch.func.functional_call(model, dict(zip(names, params)), (x,))
        assert torch.autograd.gradcheck(call, inputs, fast_mode=job["fast"])

    names = [name for name, _ in model.named_parameters()]
    return {"samples": timed(run, job), "versions": {"torch": torch.__version__}}


if __name__ == "__main__":
    JOB = json.loads(sys.argv[1])
    torch.set_num_threads(JOB["threads"])
    print(
        json.dumps({"train": train, "networks": networks, "op": op, "norms": norms, "check": check}[JOB["kind"]](JOB))
    )
