"""Writes the ONNX backend test cases as files the runner reads: models, raw tensors, one index.

Usage: conformance.py FOLDER. Each case has up to four models. `as-is` is the case. In the others some graph inputs
are initializers with the values of the case, because a static compiler needs them: `integers` has all integer and
bool inputs but the first, `operands` all inputs but the first, `constant` all of them.
"""

import os, sys, warnings
import numpy as np, onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

warnings.filterwarnings("ignore")
np.seterr(all="ignore")
folder = sys.argv[1]
index = []


def name_of(t):
    return onnx.TensorProto.DataType.Name(t)


def raw(tensor, value):
    """Element type, dimensions and bytes as the tensor's declared type stores them."""
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "US":
        return None
    kind = array.dtype.name
    if kind in ("int4", "int2"):
        array = array.astype(np.int8)  # one byte each, with its sign
    return kind, list(array.shape), np.ascontiguousarray(array).tobytes()


def freeze(model, inputs, keep):
    m = onnx.ModelProto()
    m.CopyFrom(model)
    kept = [v for i, v in enumerate(m.graph.input) if keep(i, v)]
    if len(kept) == len(m.graph.input):
        return None
    for i, v in enumerate(m.graph.input):
        if not keep(i, v):
            value = inputs[i]
            t = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value))
            t.name = v.name
            m.graph.initializer.append(t)
    del m.graph.input[:]
    m.graph.input.extend(kept)
    return m


def write(suite, name, op, model, inputs, outputs, rtol, atol):
    where = os.path.join(folder, suite, name)
    os.makedirs(where, exist_ok=True)
    lines = [f"case {suite} {name} {op} {rtol!r} {atol!r}"]
    reason = None
    for v in list(model.graph.input) + list(model.graph.output):
        if v.type.WhichOneof("value") != "tensor_type":
            reason = f"a {v.type.WhichOneof('value').replace('_type', '')} input or output"
        elif name_of(v.type.tensor_type.elem_type) == "STRING":
            reason = "a string input or output"
    if reason:
        index.append("\n".join(lines + [f"outside {reason}"]))
        return
    initial = {t.name for t in model.graph.initializer}
    ports = [v for v in model.graph.input if v.name not in initial]
    for way, declared, values in (("in", ports, inputs), ("out", model.graph.output, outputs)):
        for i, (v, x) in enumerate(zip(declared, values)):
            if isinstance(x, onnx.TensorProto):
                x = numpy_helper.to_array(x)
            got = raw(v, x)
            if got is None:
                index.append("\n".join(lines + ["outside a value that is no array of numbers"]))
                return
            kind, dims, data = got
            with open(os.path.join(where, f"{way}{i}.bin"), "wb") as f:
                f.write(data)
            lines.append(f"{way} {kind} {'x'.join(map(str, dims)) or '-'} {v.name}")
    integer = lambda v: name_of(v.type.tensor_type.elem_type) not in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
    models = {"as-is": model}
    if len(ports) == len(model.graph.input) == len(inputs):
        try:
            models["integers"] = freeze(model, inputs, lambda i, v: i == 0 or not integer(v))
            models["operands"] = freeze(model, inputs, lambda i, v: i == 0)
            models["constant"] = freeze(model, inputs, lambda i, v: False)
        except Exception as e:
            print(name, e, file=sys.stderr)
    seen = []
    for way, m in models.items():
        data = m and m.SerializeToString()
        if data and data not in seen:
            seen.append(data)
            with open(os.path.join(where, way + ".onnx"), "wb") as f:
                f.write(data)
            lines.append(f"model {way}")
    index.append("\n".join(lines))


cases = collect_testcases(None)
names = {c.name: c for c in cases}
for c in cases:
    base = names.get(c.name.split("_expanded")[0], c)
    ops = [n.op_type for n in base.model.graph.node]
    inputs, outputs = c.data_sets[0]
    write("node", c.name, ops[-1] if len(ops) == 1 else ops[0], c.model, inputs, outputs, c.rtol, c.atol)

data = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data")
for suite in ("simple", "pytorch-converted", "pytorch-operator"):
    for name in sorted(os.listdir(os.path.join(data, suite)) if os.path.isdir(os.path.join(data, suite)) else []):
        path = os.path.join(data, suite, name)
        file = os.path.join(path, "model.onnx") if os.path.isdir(path) else path
        if not file.endswith(".onnx"):
            continue
        model = onnx.load(file)
        sets = os.path.join(path, "test_data_set_0") if os.path.isdir(path) else path[:-5]
        if not os.path.isdir(sets):
            continue

        def load(kind):
            values, i = [], 0
            while os.path.exists(os.path.join(sets, f"{kind}_{i}.pb")):
                t = onnx.TensorProto()
                try:
                    t.ParseFromString(open(os.path.join(sets, f"{kind}_{i}.pb"), "rb").read())
                    values.append(numpy_helper.to_array(t))
                except Exception:
                    values.append(np.array("?"))
                i += 1
            return values

        op = model.graph.node[0].op_type if model.graph.node else "none"
        write(suite, name.removesuffix(".onnx"), op, model, load("input"), load("output"), 1e-3, 1e-7)
# Whole classifiers whose weights are made by ConstantOfShape; the suite feeds them a ramp.
light = os.path.join(data, "light")
for file in sorted(f for f in os.listdir(light) if f.endswith(".onnx")):
    model, name = onnx.load(os.path.join(light, file)), file.removesuffix(".onnx")
    initial = {t.name for t in model.graph.initializer}
    (port,) = [v for v in model.graph.input if v.name not in initial]
    shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
    ramp = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
    expected = onnx.load_tensor(os.path.join(light, name + "_output_0.pb"))
    write("light", name, name.removeprefix("light_"), model, [ramp], [numpy_helper.to_array(expected)], 1e-3, 1e-7)
with open(os.path.join(folder, "index.txt"), "w") as f:
    f.write(f"onnx {onnx.__version__} {len(cases)}\n" + "\n".join(index) + "\n")
