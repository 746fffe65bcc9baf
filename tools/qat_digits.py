#!/usr/bin/env python3
"""Quantization-aware training on what Quernel exports: `cargo xtask qat`.

For 4 and 2 bits: `quernel export --fake-quant` writes the digits network with its roundings in it; this script trains it, in
plain numpy with straight-through gradients, and writes it back as a standard QDQ model, which `quernel eval` compiles
without samples. Printed is the accuracy of the float network, of rounding it after training, and of training with the
rounding, on the test images that neither saw.

The script knows ONNX operators, not the network: it runs whatever the export holds.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
# As in fixtures/make_digits.py, so that the test images stay unseen.
SEED, TEST_IMAGES = 7, 500
BATCH, EPOCHS, RATE = 64, 80, 1e-3


class Weights:
    """Float weights that are rounded to `scale` times integers in `low..=high`; both are trained, the scale with the gradient
    of S. K. Esser et al., Learned Step Size Quantization (2020)."""

    def __init__(self, w, scale, low, high, axis):
        self.shape = [1] * w.ndim
        self.shape[axis] = -1
        self.axes = tuple(i for i in range(w.ndim) if i != axis)
        self.axis, self.low, self.high = axis, low, high
        self.w, self.scale = w.astype(np.float64), scale.astype(np.float64).reshape(self.shape)
        self.dw, self.dscale = np.zeros_like(self.w), np.zeros_like(self.scale)

    def codes(self):
        return np.clip(np.rint(self.w / self.scale), self.low, self.high)

    def forward(self):
        return self.codes() * self.scale

    def backward(self, dy):
        ratio = self.w / self.scale
        inside = (ratio >= self.low) & (ratio <= self.high)
        self.dw[:] = dy * inside
        count = self.w.size / self.scale.size
        share = (dy * (self.codes() - ratio * inside)).sum(self.axes).reshape(self.shape)
        self.dscale[:] = share / np.sqrt(count * max(self.high, 1))


class Bias:
    def __init__(self, b):
        self.w, self.dw = b.astype(np.float64), np.zeros(b.shape)

    def forward(self):
        return self.w

    def backward(self, dy):
        self.dw[:] = dy


class Network:
    """The nodes of the graph with gradients; values are float arrays by name."""

    def __init__(self, model):
        self.model, graph = model, model.graph
        self.held = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.held = {n: a.astype(np.float64) if a.dtype.kind != "i" or a.dtype.itemsize < 8 else a for n, a in self.held.items()}
        self.producer = {n.output[0]: n for n in graph.node}
        self.trained, self.nodes, inside = {}, [], set()
        for n in graph.node:
            if n.op_type == "DequantizeLinear" and (chain := self.weights_behind(n)):
                self.trained[n.output[0]], names = chain
                inside |= names
        for n in graph.node:
            if n.output[0] not in inside and n.output[0] not in self.trained:
                self.nodes.append(n)
                if n.op_type in ("Conv", "Gemm") and len(n.input) > 2 and n.input[2] in self.held:
                    self.trained[n.input[2]] = Bias(self.held[n.input[2]])
        self.input, self.output = graph.input[0].name, graph.output[0].name

    def weights_behind(self, dequantize):
        """The trained weights of DequantizeLinear(QuantizeLinear(Min(Max(w)))), and the results in between."""
        node, names, bounds = self.producer.get(dequantize.input[0]), set(), {}
        while node is not None and node.op_type in ("QuantizeLinear", "Max", "Min"):
            names.add(node.output[0])
            if node.op_type != "QuantizeLinear":
                bounds[node.op_type] = self.held[node.input[1]].ravel()[0]
            source = node.input[0]
            node = self.producer.get(source)
        if not names or source not in self.held:
            return None
        scale = self.held[dequantize.input[1]]
        first = np.ravel(scale)[0]
        low, high = round(bounds.get("Max", -128 * first) / first), round(bounds.get("Min", 127 * first) / first)
        axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 0)
        return Weights(self.held[source], scale, low, high, axis), names

    def get(self, name):
        return self.values[name] if name in self.values else self.held[name]

    def forward(self, x):
        self.values = {self.input: x} | {n: t.forward() for n, t in self.trained.items()}
        self.saved = {}
        for n in self.nodes:
            attributes = {a.name: helper.get_attribute_value(a) for a in n.attribute}
            operands = [self.get(i) if i else None for i in n.input]
            y, self.saved[n.output[0]] = FORWARD[n.op_type](attributes, *operands)
            self.values[n.output[0]] = y
        return self.values[self.output]

    def backward(self, dy):
        gradients = {self.output: dy}
        for n in reversed(self.nodes):
            dy = gradients.pop(n.output[0], None)
            if dy is None:
                continue
            for name, d in zip(n.input, self.saved[n.output[0]](dy)):
                if d is not None:
                    gradients[name] = gradients.get(name, 0.0) + d
        for name, t in self.trained.items():
            t.backward(gradients[name])

    def onnx(self):
        """The model with integer weights behind DequantizeLinear."""
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        graph = result.graph
        replaced = {}
        for name, t in self.trained.items():
            if isinstance(t, Bias):
                replaced[name] = numpy_helper.from_array(t.w.astype(np.float32), name)
        nodes = []
        for n in graph.node:
            t = self.trained.get(n.output[0])
            if not isinstance(t, Weights):
                nodes.append(n)
                continue
            kind = TensorProto.INT4 if t.low >= -8 and t.high <= 7 else TensorProto.INT8
            codes, scale = f"{n.output[0]}.codes", f"{n.output[0]}.trained"
            replaced[codes] = helper.make_tensor(codes, kind, t.w.shape, t.codes().astype(int).ravel().tolist())
            replaced[scale] = numpy_helper.from_array(t.scale.ravel().astype(np.float32), scale)
            nodes.append(helper.make_node("DequantizeLinear", [codes, scale], [n.output[0]], n.name, axis=t.axis))
        kept = [i for i in graph.initializer if i.name not in replaced] + list(replaced.values())
        # What nothing reads any more goes.
        wanted, used = {o.name for o in graph.output}, []
        for n in reversed(nodes):
            if n.output[0] in wanted:
                used.insert(0, n)
                wanted |= set(n.input)
        del graph.node[:], graph.initializer[:]
        graph.node.extend(used)
        graph.initializer.extend(i for i in kept if i.name in wanted)
        onnx.checker.check_model(result, full_check=True)
        return result


def conv(attributes, x, w, b=None):
    (top, left, bottom, right), group = attributes["pads"], attributes["group"]
    stride, k = attributes["strides"], w.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, c = x.shape[:2]
    h, wide = [(padded.shape[2 + i] - k[i]) // stride[i] + 1 for i in range(2)]
    rows, columns = np.s_[: stride[0] * h : stride[0]], np.s_[: stride[1] * wide : stride[1]]
    taps = np.stack([padded[:, :, i:, j:][:, :, rows, columns] for i in range(k[0]) for j in range(k[1])], 2)
    cols = taps.reshape(n, group, c // group * k[0] * k[1], h * wide)
    weights = w.reshape(group, w.shape[0] // group, -1)
    y = np.einsum("gok,ngkp->ngop", weights, cols, optimize=True).reshape(n, w.shape[0], h, wide)

    def back(dy):
        d = dy.reshape(n, group, -1, h * wide)
        dw = np.einsum("ngop,ngkp->gok", d, cols, optimize=True).reshape(w.shape)
        dtaps = np.einsum("gok,ngop->ngkp", weights, d, optimize=True).reshape(n, c, k[0] * k[1], h, wide)
        dx = np.zeros_like(padded)
        for t, (i, j) in enumerate((i, j) for i in range(k[0]) for j in range(k[1])):
            dx[:, :, i:, j:][:, :, rows, columns] += dtaps[:, :, t]
        dx = dx[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right]
        return dx, dw, dy.sum((0, 2, 3)) if b is not None else None

    return y if b is None else y + b.reshape(1, -1, 1, 1), back


def gemm(attributes, x, w, b=None):
    def back(dy):
        return dy @ w, dy.T @ x, dy.sum(0) if b is not None else None

    assert attributes["transB"] == 1
    return x @ w.T + (0 if b is None else b), back


def max_pool(attributes, x):
    (kh, kw), (sh, sw) = attributes["kernel_shape"], attributes["strides"]
    assert (kh, kw) == (sh, sw) and not any(attributes["pads"])
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // kh, kh, w // kw, kw)
    largest = blocks.max((3, 5), keepdims=True)
    share = blocks == largest
    share = share / share.sum((3, 5), keepdims=True)
    return largest[:, :, :, 0, :, 0], lambda dy: ((share * dy[:, :, :, None, :, None]).reshape(x.shape),)


def mean(attributes, x, axes=None):
    axes = tuple(range(2, x.ndim)) if axes is None else tuple(int(a) for a in axes)
    keep = bool(attributes.get("keepdims", 1))
    count = np.prod([x.shape[a] for a in axes])
    back = lambda dy: (np.broadcast_to((dy if keep else np.expand_dims(dy, axes)) / count, x.shape), None)
    return x.mean(axes, keepdims=keep), back


def quantize(attributes, x, scale, zero):
    low, high = (0, 255) if zero.min() >= 0 else (-128, 127)
    ratio = x / scale
    inside = (ratio >= low - zero) & (ratio <= high - zero)
    return np.clip(np.rint(ratio) + zero, low, high), lambda dy: (dy * inside / scale, None, None)


def flat(attributes, x, shape=None):
    return x.reshape(len(x), -1), lambda dy: (dy.reshape(x.shape), None)


FORWARD = {
    "Conv": conv,
    "Gemm": gemm,
    "MaxPool": max_pool,
    "ReduceMean": mean,
    "GlobalAveragePool": mean,
    "AveragePool": lambda attributes, x: mean({}, x),
    "Reshape": flat,
    "Flatten": flat,
    "Identity": lambda attributes, x: (x, lambda dy: (dy,)),
    "Relu": lambda attributes, x: (np.maximum(x, 0), lambda dy: (dy * (x > 0),)),
    "Add": lambda attributes, a, b: (a + b, lambda dy: (dy, dy)),
    "QuantizeLinear": quantize,
    "DequantizeLinear": lambda attributes, q, scale, zero: ((q - zero) * scale, lambda dy: (dy * scale, None, None)),
}


def train(network, images, labels, rng):
    held = []
    for t in network.trained.values():
        held.append((t.w, t.dw))
        if isinstance(t, Weights):
            held.append((t.scale, t.dscale))
    first, second = [np.zeros_like(w) for w, _ in held], [np.zeros_like(w) for w, _ in held]
    # Steps in proportion to what they change.
    sizes = [max(np.abs(w).mean(), 1e-3) for w, _ in held]
    steps = len(images) // BATCH
    total, step = EPOCHS * steps, 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for k in range(steps):
            pick = order[k * BATCH : (k + 1) * BATCH]
            # One pixel of random translation, as in the training of the float network.
            dy, dx = rng.integers(-1, 2, 2)
            batch = np.pad(images[pick], ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, 1 + dy : 9 + dy, 1 + dx : 9 + dx]
            logits = network.forward(batch)
            odds = np.exp(logits - logits.max(1, keepdims=True))
            gradient = odds / odds.sum(1, keepdims=True)
            gradient[np.arange(BATCH), labels[pick]] -= 1.0
            network.backward(gradient / BATCH)
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / total))
            for (w, dw), m, v, size in zip(held, first, second, sizes):
                m += 0.1 * (dw - m)
                v += 0.001 * (dw * dw - v)
                w -= rate * size * 10 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            for t in network.trained.values():
                if isinstance(t, Weights):
                    np.maximum(t.scale, 1e-6, out=t.scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quernel", default=str(ROOT / "target/release/quernel"))
    parser.add_argument("--bits", nargs="*", default=["4", "2"])
    parser.add_argument("--keep", type=Path, help="folder for the trained models")
    args = parser.parse_args()
    model, calibration, test = (str(FIXTURES / f"digits{end}") for end in (".onnx", "_calib.npz", "_test.npz"))

    def quernel(*line):
        return subprocess.run([args.quernel, *line], check=True, capture_output=True, text=True).stdout

    def accuracy(file, *options):
        return json.loads(quernel("eval", file, "--test", test, "--json", *options))

    digits = load_digits()
    fit = np.random.default_rng(SEED).permutation(len(digits.images))[TEST_IMAGES:]
    images, labels = digits.images[fit][:, None].astype(np.float64), digits.target[fit]
    print("| bits | float | rounded after training | trained with the rounding |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = args.keep or Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for bits in args.bits:
            start, end = str(folder / f"digits_{bits}.fake.onnx"), str(folder / f"digits_{bits}.qdq.onnx")
            after = accuracy(model, "--calibrate", calibration, "--bits", bits)
            quernel("export", model, "--fake-quant", "--calibrate", calibration, "--bits", bits, "-o", start)
            network = Network(onnx.load(start))
            train(network, images, labels, np.random.default_rng(SEED + 2))
            onnx.save(network.onnx(), end)
            trained = accuracy(end)
            print(f"| {bits} | {after['float_top1']:.2f} % | {after['compiled_top1']:.2f} % | {trained['compiled_top1']:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
