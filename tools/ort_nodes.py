"""Cuts a quantized ONNX model at its integer tensors.

Between two integer tensors lies one operator of the integer world: a QLinearConv, or a Conv between DequantizeLinear and
QuantizeLinear. Each becomes a model of its own, with float inputs that are rounded to exactly the integers they stand for.
"""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

INTEGERS = {
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(int8)": TensorProto.INT8,
    "tensor(uint16)": TensorProto.UINT16,
    "tensor(int16)": TensorProto.INT16,
}

# Which operands of an operator are the scale and zero point of its result.
RESULT_PARAMETERS = {
    "QuantizeLinear": (1, 2),
    "QLinearConv": (6, 7),
    "QLinearMatMul": (6, 7),
    "QLinearAdd": (6, 7),
    "QLinearMul": (6, 7),
    "QGemm": (7, 8),
    "QLinearAveragePool": (3, 4),
    "QLinearGlobalAveragePool": (3, 4),
    "QLinearLeakyRelu": (3, 4),
    "QLinearSigmoid": (3, 4),
    "QLinearSoftmax": (3, 4),
    "QLinearConcat": (0, 1),
}


def session(model, optimized=False):
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    level = ort.GraphOptimizationLevel

    def made(exact):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        # Without it, sums of pairs saturate in 16 bits on x86-64 CPUs before VNNI.
        options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    try:
        return made(exact=optimized)
    except Exception:  # Signed operands and weights together: the option has no kernel for them.
        return made(exact=False)


def without_saturation(model, types):
    """The same model with unsigned weights beside unsigned activations: x86-64 CPUs before VNNI multiply bytes with signed
    weights in pairs that saturate, and the session option only helps where graphs are optimized."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    held = {i.name: i for i in result.graph.initializer}
    weights_at = {"QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "QGemm": (3, 5)}
    for node in result.graph.node:
        if node.op_type not in weights_at or types.get(node.input[0]) != "tensor(uint8)":
            continue
        for at, kind in [(i, node.input[i]) for i in weights_at[node.op_type]]:
            if kind in held and held[kind].data_type == TensorProto.INT8:
                moved = f"{kind}.unsigned"
                if moved not in held:
                    array = (numpy_helper.to_array(held[kind]).astype(np.int16) + 128).astype(np.uint8)
                    held[moved] = numpy_helper.from_array(array, moved)
                    result.graph.initializer.append(held[moved])
                node.input[at] = moved
    return result


def runtime_model(model, results=()):
    """What ONNX Runtime runs in place of a model: without saturation, and with more results."""
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    held = {i.name for i in model.graph.initializer}
    listed = {o.name for o in model.graph.output}
    everything = onnx.ModelProto()
    everything.CopyFrom(model)
    computed = dict.fromkeys(o for n in model.graph.node for o in n.output if o and o not in held and o not in listed)
    everything.graph.output.extend(helper.make_empty_tensor_value_info(c) for c in computed)
    types = {o.name: o.type for o in session(everything).get_outputs()}
    wanted.graph.output.extend(helper.make_empty_tensor_value_info(r) for r in results if r not in listed)
    return without_saturation(wanted, types)


class Cut:
    """An integer tensor, or an output, and the nodes that compute it from other cuts."""

    def __init__(self, name, nodes, inputs):
        self.name, self.nodes, self.inputs = name, nodes, inputs

    def operator(self):
        """What is computed, without the roundings around it."""
        ops = [n.op_type for n in self.nodes if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
        return "+".join(ops) or "+".join(n.op_type for n in self.nodes)


class Cuts:
    def __init__(self, model):
        self.model = model
        graph = model.graph
        self.constants = {i.name for i in graph.initializer}
        self.producer = {o: n for n in graph.node for o in n.output}
        for n in graph.node:
            if all(i in self.constants or not i for i in n.input):
                self.constants |= set(n.output)
        self.held = {i.name: i for i in graph.initializer}
        ports = [i.name for i in graph.input if i.name not in self.held]
        computed = [o for n in graph.node for o in n.output if o and o not in self.constants]
        self.session = session(runtime_model(model, computed))
        self.types = {o.name: o.type for o in self.session.get_outputs()} | {i.name: i.type for i in self.session.get_inputs()}
        self.ports = ports
        outputs = [o.name for o in graph.output]
        integers = {c for c in computed if self.is_integer(c) and self.parameters(c)}
        stops = integers | set(ports) | self.constants
        wanted = [c for c in computed if c in integers or c in outputs]
        self.cuts = [self.cut(name, stops) for name in wanted]

    def cut(self, name, stops):
        nodes, inputs, seen, pending = [], [], set(), [name]
        while pending:
            node = self.producer[pending.pop()]
            if node.output[0] in seen:
                continue
            seen.add(node.output[0])
            nodes.append(node)
            for i in filter(None, node.input):
                if i in self.constants:
                    if i in self.producer:
                        pending.append(i)
                elif i in stops:
                    inputs += [i] if i not in inputs else []
                else:
                    pending.append(i)
        place = {id(n): k for k, n in enumerate(self.model.graph.node)}
        return Cut(name, sorted(nodes, key=lambda n: place[id(n)]), inputs)

    def parameters(self, name):
        """Names of scale and zero point of an integer tensor, looking through moves; None where they are computed or several."""
        while name in self.producer:
            node = self.producer[name]
            if node.op_type in RESULT_PARAMETERS:
                at = RESULT_PARAMETERS[node.op_type]
                names = tuple(node.input[i] if i < len(node.input) else "" for i in at)
                return names if all(not n or self.is_known(n) for n in names) and self.constant(names[0]).size == 1 else None
            name = node.input[0]
        return None

    def is_known(self, name):
        """Whether the numbers of a constant stand in the file."""
        return name in self.held or name in self.constants and self.producer[name].op_type == "Constant"

    def constant(self, name):
        if name in self.held:
            return numpy_helper.to_array(self.held[name])
        node = self.producer[name]
        assert node.op_type == "Constant", f"{name} is computed from constants by {node.op_type}"
        return numpy_helper.to_array(node.attribute[0].t)

    def is_integer(self, name):
        return self.types[name] in INTEGERS

    def scale(self, name):
        """Scale and zero point of an integer tensor."""
        scale, zero = self.parameters(name)
        number = lambda x: np.float32(self.constant(x).astype(np.float32).reshape(()))
        return number(scale), number(zero) if zero else np.float32(0)

    def values(self, feeds):
        """Every cut for every sample, as the runtime computes the whole graph."""
        names = list(dict.fromkeys([c.name for c in self.cuts]))
        rows = [self.session.run(names, feed) for feed in feeds]
        return {n: np.stack([np.asarray(r[k]) for r in rows]) for k, n in enumerate(names)}

    def model_of(self, cut, values):
        """The model of one cut, and its float inputs for every sample."""
        nodes, inputs, initializers, arrays = [], [], {}, {}
        for name in cut.inputs:
            stacked = values[name]
            if self.types[name] not in INTEGERS:
                inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, stacked.shape[1:]))
                arrays[name] = stacked.astype(np.float32)
                continue
            scale, zero = self.parameters(name)
            s, z = self.scale(name)
            inputs.append(helper.make_tensor_value_info(f"{name}.float", TensorProto.FLOAT, stacked.shape[1:]))
            arrays[f"{name}.float"] = (stacked.astype(np.float32) - z) * s
            nodes.append(helper.make_node("QuantizeLinear", [f"{name}.float", scale] + ([zero] if zero else []), [name]))
        nodes += cut.nodes
        for i in {i for n in nodes for i in n.input if i in self.held}:
            initializers[i] = self.held[i]
        kind = INTEGERS.get(self.types[cut.name], TensorProto.FLOAT)
        output = helper.make_tensor_value_info(cut.name, kind, values[cut.name].shape[1:])
        graph = helper.make_graph(nodes, "cut", inputs, [output], list(initializers.values()))
        part = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        return part, arrays
