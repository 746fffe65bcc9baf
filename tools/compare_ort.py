#!/usr/bin/env python3
"""Runs ONNX models in ONNX Runtime and in Quernel on the same inputs and says how far they agree.

    python tools/compare_ort.py [--inputs X.npz] [--rows N] [--quernel PATH] [--compile-args ..] MODEL..

Needs the packages onnxruntime and numpy. Inputs are arrays named like the graph's inputs, axis 0 counting samples; without
a file they are normal noise. One line per model and output: signal to noise, share of samples with the same largest
element, share of elements that are equal, the largest difference, and the same largest difference in steps of the output
(the smallest difference between two of ONNX Runtime's values), for outputs of a DequantizeLinear.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

KINDS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


def noise(inputs, rows):
    rng = np.random.default_rng(0)
    shape = lambda i: [d if isinstance(d, int) else 1 for d in i.shape][1:]
    return {i.name: rng.standard_normal([rows, *shape(i)]).astype(np.float32) for i in inputs}


def session(path, optimized):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def expected(model, arrays, optimized):
    runner = session(model, optimized)
    rows = len(next(iter(arrays.values())))
    shapes = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in runner.get_inputs()}
    outs = []
    for r in range(rows):
        feed = {n: arrays[n][r].reshape(shapes[n]) for n in shapes}
        outs.append(runner.run(None, feed))
    return {o.name: np.stack([out[k] for out in outs]) for k, o in enumerate(runner.get_outputs())}


def compare(name, want, got):
    want, got = want.reshape(len(want), -1).astype(np.float64), got.reshape(len(got), -1).astype(np.float64)
    off = want - got
    noise = (off**2).sum()
    sqnr = 10 * np.log10((want**2).sum() / noise) if noise > 0 else np.inf
    top = 100 * np.mean(want.argmax(1) == got.argmax(1))
    values = np.unique(want.astype(np.float32)).astype(np.float64)
    step = np.diff(values).min() if 1 < len(values) <= 256 else np.nan
    print(
        f"  {name}: {sqnr:.1f} dB, same argmax {top:.2f} %, equal {100 * np.mean(np.abs(off) <= 1e-6 * np.abs(want).max()):.3f} %, "
        f"largest difference {np.abs(off).max():.3g} ({np.abs(off).max() / step:.2f} steps), {len(want)} samples"
    )
    return sqnr, top


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--inputs", type=Path, help="sample arrays (.npz)")
    parser.add_argument("--rows", type=int, default=16, help="how many samples")
    parser.add_argument("--quernel", default=str(Path(__file__).parent.parent / "target/release/quernel"))
    parser.add_argument("--unoptimized", action="store_true", help="ONNX Runtime runs the graph as it is written")
    parser.add_argument("--least-db", type=float, default=0.0, help="fail below this signal to noise")
    parser.add_argument("--least-top", type=float, default=0.0, help="fail below this share of equal largest elements, in percent")
    parser.add_argument("--pass", dest="extra", nargs="*", default=[], help="more arguments for quernel, without the dashes")
    args = parser.parse_args()
    failed = False
    for model in args.models:
        inputs = session(model, False).get_inputs()
        if args.inputs:
            arrays = {n: a[: args.rows].astype(np.float32) for n, a in np.load(args.inputs).items() if n in {i.name for i in inputs}}
        else:
            arrays = noise(inputs, args.rows)
        print(model)
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
            np.savez(given, **arrays)
            command = [args.quernel, "run", str(model), "--input", str(given), "-o", str(made), *(f"--{e}" for e in args.extra)]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode != 0:
                print("  " + ran.stderr.strip().replace("\n", "\n  "))
                failed = True
                continue
            got = dict(np.load(made))
        for name, want in expected(model, arrays, not args.unoptimized).items():
            sqnr, top = compare(name, want, got[name])
            failed |= sqnr < args.least_db or top < args.least_top
    sys.exit(failed)


if __name__ == "__main__":
    main()
