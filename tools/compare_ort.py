#!/usr/bin/env python3
"""Runs ONNX models in ONNX Runtime and in Quernel on the same inputs and says how far they agree.

    python tools/compare_ort.py [--nodes] [--inputs X.npz] [--rows N] [--quernel PATH] [--pass ..] MODEL..
    python tools/compare_ort.py --suite [--full] [--models FOLDER] [--generated FOLDER]

Needs the packages onnx, onnxruntime and numpy; `cargo xtask ort` makes an environment that has them. Inputs are arrays named
like the graph's inputs, axis 0 counting samples; without a file they are normal noise.

One line per model and output: signal to noise, share of samples with the same largest element, share of elements that are
equal, the largest difference, and the same largest difference in steps of the output (the smallest difference between two
of ONNX Runtime's values), for outputs of a DequantizeLinear.

With --nodes every operator between two integer tensors is compared alone, on what ONNX Runtime feeds it: one line per kind of
operator. Those of EQUAL have to give the same bytes, others integers at most 1 apart.

The suite is what the project promises: models of fixtures/, exports of its own, and models of two folders. --generated names
one of float networks NAME.onnx beside ONNX Runtime's quantization of them, NAME.qdq.onnx. Some such networks amplify a single
rounding to a change of their whole result, so that ONNX Runtime with and without its graph optimizations are far from each
other: from those, no more agreement is asked than ONNX Runtime has with itself.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from ort_nodes import Cuts, runtime_model, session

ROOT = Path(__file__).resolve().parent.parent
# Exact integer sums, rounded once as ONNX Runtime rounds them; and a rounding of floats.
EQUAL = {"QLinearConv", "QLinearMatMul", "QGemm", "QuantizeLinear"}


@dataclass
class Case:
    """What is compared, and the least agreement."""

    model: Path
    inputs: Path | None = None
    array: str | None = None
    transform: object = staticmethod(lambda x: x)
    rows: int = 16
    nodes: bool = True
    least_db: float = 0.0
    least_top: float = 0.0
    optimized: bool = True
    # The agreement has to be there with or without graph optimizations, or be what ONNX Runtime has with itself.
    either: bool = False
    extra: list = field(default_factory=list)


class Quernel:
    def __init__(self, path):
        self.path = path

    def __call__(self, command, model, *arguments):
        line = [self.path, command, str(model), *map(str, arguments)]
        ran = subprocess.run(line, capture_output=True, text=True)
        if ran.returncode != 0:
            raise RuntimeError(ran.stderr.strip())

    def run(self, model, arrays, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
            np.savez(given, **arrays)
            self("run", model, "--input", given, "-o", made, *arguments)
            return dict(np.load(made))


def shapes(runner):
    return {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in runner.get_inputs()}


def arrays_for(case, runner):
    wanted = shapes(runner)
    if case.inputs is None:
        rng = np.random.default_rng(0)
        return {n: rng.standard_normal([case.rows, *s[1:]]).astype(np.float32) for n, s in wanted.items()}
    held = np.load(case.inputs)
    names = {n: case.array or n for n in wanted}
    return {n: np.asarray(case.transform(held[a][: case.rows].astype(np.float32)), np.float32) for n, a in names.items()}


def feeds_of(arrays, wanted):
    rows = len(next(iter(arrays.values())))
    return [{n: arrays[n][r].reshape(s) for n, s in wanted.items()} for r in range(rows)]


def decibels(want, got):
    noise = ((want.astype(np.float64) - got) ** 2).sum()
    return 10 * np.log10((want.astype(np.float64) ** 2).sum() / noise) if noise > 0 else np.inf


def compare(name, want, got):
    want, got = want.reshape(len(want), -1).astype(np.float64), got.reshape(len(got), -1).astype(np.float64)
    off = want - got
    sqnr = decibels(want, got)
    top = 100 * np.mean(want.argmax(1) == got.argmax(1))
    values = np.unique(want.astype(np.float32)).astype(np.float64)
    step = np.diff(values).min() if 1 < len(values) <= 256 else np.nan
    print(
        f"  {name}: {sqnr:.1f} dB, same argmax {top:.2f} %, equal {100 * np.mean(np.abs(off) <= 1e-6 * np.abs(want).max()):.3f} %, "
        f"largest difference {np.abs(off).max():.3g} ({np.abs(off).max() / step:.2f} steps), {len(want)} samples"
    )
    return sqnr, top


def whole(case, quernel):
    runner = session(runtime_model(onnx.load(case.model)), case.optimized)
    arrays = arrays_for(case, runner)
    outs = [runner.run(None, feed) for feed in feeds_of(arrays, shapes(runner))]
    got = quernel.run(case.model, arrays, *case.extra)
    sound, least = True, case.least_db
    for k, output in enumerate(runner.get_outputs()):
        want = np.stack([out[k] for out in outs])
        sqnr, top = compare(output.name, want, got[output.name])
        if sqnr < least and case.either:
            other = session(runtime_model(onnx.load(case.model)), not case.optimized)
            second = np.stack([other.run(None, feed)[k] for feed in feeds_of(arrays, shapes(other))])
            itself = decibels(want, second)
            sqnr = max(sqnr, compare(f"{output.name}, graph {'un' if case.optimized else ''}optimized", second, got[output.name])[0])
            print(f"  {output.name}: ONNX Runtime itself, with and without graph optimizations: {itself:.1f} dB")
            least = min(least, itself - 1)
        sound &= sqnr >= least and top >= case.least_top
    return sound


def distance(cuts, cut, values, quernel):
    """The operator of a cut, and how many steps every element is off."""
    part, inputs = cuts.model_of(cut, values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.onnx"
        onnx.save(part, path)
        # A model takes one sample: where axis 0 has extent 1 it counts them.
        stacked = {n: a.reshape(len(a), *(a.shape[2:] if a.shape[1:2] == (1,) and a.ndim > 2 else a.shape[1:])) for n, a in inputs.items()}
        got = quernel.run(path, stacked)[cut.name]
    want = values[cut.name]
    integer = cuts.is_integer(cut.name) and cuts.parameters(cut.name)
    if integer and not np.issubdtype(got.dtype, np.integer):
        # Quernel's runner hands out the numbers that integers of 8 bits stand for.
        scale, zero = cuts.scale(cut.name)
        got = np.rint(got.astype(np.float64) / scale) + zero
    got, want = got.reshape(len(got), -1).astype(np.float64), want.reshape(len(want), -1).astype(np.float64)
    if integer:
        return cut.operator(), np.abs(got - want)
    # In units of 1e-5 of the largest number, or of the step of what was rounded.
    step = 1e-5 * max(np.abs(want).max(), 1e-30)
    if cut.nodes[-1].op_type == "DequantizeLinear" and cuts.is_known(cut.nodes[-1].input[1]):
        step = float(np.max(cuts.constant(cut.nodes[-1].input[1])))
    return cut.operator(), np.where(np.abs(got - want) <= 1e-6 * np.abs(want).max(), 0, np.abs(got - want) / step)


def by_nodes(case, quernel):
    model = onnx.load(case.model)
    cuts = Cuts(model)
    arrays = arrays_for(case, cuts.session)
    wanted = shapes(cuts.session)
    values = cuts.values(feeds_of(arrays, wanted)) | {n: np.stack([f[n] for f in feeds_of(arrays, wanted)]) for n in wanted}
    found = {}
    # Each is a process of its own.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for kind, off in pool.map(lambda cut: distance(cuts, cut, values, quernel), cuts.cuts):
            count, elements, differ, most = found.get(kind, (0, 0, 0, 0.0))
            found[kind] = (count + 1, elements + off.size, differ + int((off > 1e-3).sum()), max(most, float(off.max(initial=0))))
    sound = True
    for kind, (count, elements, differ, most) in found.items():
        allowed = 0 if kind in EQUAL else 1.001
        fits = most <= allowed
        sound &= fits
        verdict = "" if fits else "   <-- beyond what is promised"
        print(f"  {count:3} x {kind}: {differ} of {elements} elements differ ({100 * differ / max(elements, 1):.4f} %), by at most {most:.3g}{verdict}")
    return sound


def judge(case, quernel):
    print(case.model)
    try:
        sound = whole(case, quernel)
        if case.nodes:
            sound &= by_nodes(case, quernel)
    except Exception as e:
        print("  " + str(e).replace("\n", "\n  "))
        sound = False
    if not sound:
        print("  FAILED")
    return sound


def fixtures():
    """Models of this repository that arrive quantized, node by node on their own samples."""
    for path in sorted((ROOT / "fixtures/quantized").glob("*.onnx")):
        # ONNX Runtime has no QONNX.
        if "qonnx" not in path.stem:
            yield Case(path, path.with_suffix(".npz"), optimized=False, nodes=not path.stem.startswith("float_"))


def exported(quernel, folder, full, models):
    """Networks that Quernel quantized and wrote as ONNX."""
    digits = ROOT / "fixtures/digits_calib.npz"
    made = [(ROOT / "fixtures/digits.onnx", digits, [], Case(Path("digits"), ROOT / "fixtures/digits_test.npz", rows=64, least_db=40))]
    if models:
        cifar = models / "cifar10_resnet8/cifar10_4000.npz"
        kws = models / "kws_dscnn/kws_500.npz"
        mnist = models / "mnist/mnist_train_20000.npz"
        rows = 500 if full else 16
        chw = lambda x: x.transpose(0, 3, 1, 2)
        centred = lambda x: ((x - 83) * np.float32(0.5847029)).astype(np.float32)
        made += [
            (models / "cifar10_resnet8/ic_resnet8_fp32.onnx", cifar, ["--array", "input_1=x", "--channels-last", "--rows", "0..256"],
             Case(Path("resnet8"), cifar, "x", chw, rows, least_db=40)),
            (models / "kws_dscnn/kws_dscnn_float.onnx", kws, ["--array", "input_1=x", "--subtract", "83", "--multiply", "0.5847029", "--rows", "0..100"],
             Case(Path("kws"), kws, "x", centred, rows, least_db=40)),
            (models / "mnist/mnist_cntk_op8.onnx", mnist, ["--array", "Input3=x", "--rows", "0..256"],
             Case(Path("mnist"), models / "mnist/mnist_test_5000.npz", "x", lambda x: x[:, None], rows, least_db=40)),
        ]  # fmt: skip
    for model, samples, options, case in made:
        case.model = Path(folder) / f"{case.model}.qdq.onnx"
        quernel("export", model, "--calibrate", samples, *options, "-o", case.model)
        onnx.checker.check_model(str(case.model), full_check=True)
        case.optimized = False
        yield case


def real(models, full):
    """Files of other tools, on data where there is some."""
    rows = 1000 if full else 8
    for path in sorted((models / "micro_kws").glob("*q*.onnx")):
        yield Case(path, rows=rows)
    centred = lambda x: ((x - 83) * np.float32(0.5847029)).astype(np.float32)
    least = 99.8 if full else 90
    kws, cifar = models / "kws_dscnn", models / "cifar10_resnet8"
    for model, data, transform, more in [
        (kws / "kws_dscnn_qdq_int8.onnx", kws / "kws_500.npz", centred, 500 if full else 16),
        (cifar / "ic_resnet8_qdq_int8.onnx", cifar / "cifar10_4000.npz", lambda x: x[1000:], 4000 if full else 1016),
    ]:
        yield Case(model, data, "x", transform, more, nodes=False, least_top=least, optimized=False)
        yield Case(model, data, "x", transform, 1000 + rows if more > 1000 else rows)
    for name in ["vww_mobilenet/vww_mobilenetv1_025_qdq_int8.onnx", "ad_autoencoder/ad_autoencoder_qdq_int8.onnx"]:
        yield Case(models / name, rows=64 if full else 2)


def generated(quernel, models, folder):
    """Networks without training: ONNX Runtime's quantization of them, and Quernel's."""
    for path in sorted(models.glob("*.qdq.onnx")):
        yield Case(path, rows=2, nodes=False, least_db=40, either=True)
    path = models / "mobilenetv2.onnx"
    if path.is_file():
        taken = onnx.load(path).graph.input[0]
        shape = [d.dim_value for d in taken.type.tensor_type.shape.dim]
        samples, made = Path(folder) / "noise.npz", Path(folder) / "mobilenetv2.qdq.onnx"
        np.savez(samples, **{taken.name: np.random.default_rng(1).standard_normal([32, *shape[1:]]).astype(np.float32)})
        quernel("export", path, "--calibrate", samples, "-o", made)
        onnx.checker.check_model(str(made), full_check=True)
        yield Case(made, rows=2, least_db=40, optimized=False, either=True)


def suite(args, quernel):
    sound = True
    models = Path(args.models) if args.models and Path(args.models).is_dir() else None
    if models is None:
        print("SKIPPED: models of other tools; set QUERNEL_MODELS to their folder")
    with tempfile.TemporaryDirectory() as folder:
        cases = [*fixtures(), *exported(quernel, folder, args.full, models), *(real(models, args.full) if models else [])]
        cases += generated(quernel, args.generated, folder) if args.generated else []
        for case in cases:
            sound &= judge(case, quernel)
    return sound


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--suite", action="store_true", help="everything the project promises, on few samples")
    parser.add_argument("--full", action="store_true", help="the suite on all samples")
    parser.add_argument("--models", help="folder of real models, for the suite")
    parser.add_argument("--generated", type=Path, help="folder of networks that ONNX Runtime quantized, for the suite")
    parser.add_argument("--nodes", action="store_true", help="also operator by operator")
    parser.add_argument("--inputs", type=Path, help="sample arrays (.npz)")
    parser.add_argument("--rows", type=int, default=16, help="how many samples")
    parser.add_argument("--quernel", default=str(ROOT / "target/release/quernel"))
    parser.add_argument("--unoptimized", action="store_true", help="ONNX Runtime runs the graph as it is written")
    parser.add_argument("--least-db", type=float, default=0.0, help="fail below this signal to noise")
    parser.add_argument("--least-top", type=float, default=0.0, help="fail below this share of equal largest elements, in percent")
    parser.add_argument("--pass", dest="extra", nargs="*", default=[], help="more arguments for quernel, without the dashes")
    args = parser.parse_args()
    quernel = Quernel(args.quernel)
    sound = suite(args, quernel) if args.suite else True
    for model in args.onnx:
        extra = [f"--{e}" for e in args.extra]
        case = Case(model, args.inputs, None, rows=args.rows, nodes=args.nodes, least_db=args.least_db, least_top=args.least_top)
        case.optimized, case.extra = not args.unoptimized, extra
        sound &= judge(case, quernel)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
