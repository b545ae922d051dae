"""ONNX Runtime and JAX for the layer norm, scikit-learn and SciPy for the columns; each is optional."""

import os

import numpy as np

from bench import machine
from bench.cases import Arrays, Case
from bench.peers import Call, eps_of


class OnnxRuntime:
    """The operator LayerNormalization, in a session for each case and number of threads."""

    name = "onnx"
    TYPES = ("float32",)  # what its CPU kernels are written for

    def __init__(self) -> None:
        import onnx
        import onnxruntime

        self._onnx, self._runtime = onnx, onnxruntime
        self._threads = 1

    def set_threads(self, threads: int) -> None:
        """Holds for the sessions made, or asked for, from now on."""
        self._threads = threads

    def to_numpy(self, result, case: Case) -> np.ndarray:
        """Results are arrays already."""
        return result

    def prepare(self, case: Case, arrays: Arrays) -> Call | None:
        """The forward of the layer norm."""
        if case.layout.norm != "layer" or case.direction == "backward" or case.dtype not in self.TYPES:
            return None
        model, sessions = self._model(case), {}
        feeds = {"x": arrays.x, "weight": arrays.weight, "bias": arrays.bias}

        def call():
            if self._threads not in sessions:
                options = self._runtime.SessionOptions()
                options.intra_op_num_threads = self._threads
                sessions[self._threads] = self._runtime.InferenceSession(
                    model, options, providers=["CPUExecutionProvider"]
                )
            return sessions[self._threads].run(None, feeds)

        return call

    def _model(self, case: Case) -> bytes:
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT

        def value(name, shape):
            return helper.make_tensor_value_info(name, kind, shape)

        node = helper.make_node(
            "LayerNormalization", ["x", "weight", "bias"], ["y"], axis=-1, epsilon=eps_of(case)
        )
        width = [case.shape[-1]]
        inputs = [value("x", case.shape), value("weight", width), value("bias", width)]
        graph = helper.make_graph([node], "layer_norm", inputs, [value("y", case.shape)])
        opset = helper.make_opsetid("", 17)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


class Jax:
    """The formula under jit, on arrays that are JAX's own; it only ever runs on all processors."""

    name = "jax"

    def __init__(self) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        jax.config.update("jax_enable_x64", True)
        self._jax = jax
        self.only_threads = machine.processors()

    def set_threads(self, threads: int) -> None:
        """Its pool has as many threads as this process has processors, and cannot be set."""

    def to_numpy(self, result, case: Case) -> np.ndarray:
        """JAX's bfloat16 is ml_dtypes'."""
        return np.asarray(result)

    def prepare(self, case: Case, arrays: Arrays) -> Call | None:
        """Layer, RMS and batch norm, with the gradients by jax.vjp."""
        if case.layout.norm not in ("layer", "rms", "batch"):
            return None
        jax, view, eps = self._jax, case.view, eps_of(case)
        jnp, centred = jax.numpy, case.layout.norm != "rms"

        def forward(x, weight, bias):
            wide = x.astype(weight.dtype)
            if centred:
                wide = wide - wide.mean(view.axes, keepdims=True)
            rstd = jax.lax.rsqrt((wide * wide).mean(view.axes, keepdims=True) + eps)
            y = wide * rstd * weight.reshape(view.weight_shape)
            return (y + bias.reshape(view.weight_shape) if centred else y).astype(x.dtype)

        x, dy, weight, bias = (jnp.asarray(a) for a in (arrays.x, arrays.dy, arrays.weight, arrays.bias))
        if case.direction == "forward":
            compiled = jax.jit(forward)
            return lambda: (compiled(x, weight, bias).block_until_ready(),)
        backward = jax.jit(lambda x, weight, bias, dy: jax.vjp(forward, x, weight, bias)[1](dy))
        wanted = 3 if centred else 2
        return lambda: jax.block_until_ready(backward(x, weight, bias, dy))[:wanted]


class Columns:
    """What a data scientist takes for columns: no weight, one thread."""

    def __init__(self, name: str, standardize) -> None:
        self.name = name
        self._standardize = standardize

    def set_threads(self, threads: int) -> None:
        """They have one thread."""

    def to_numpy(self, result, case: Case) -> np.ndarray:
        """Results are arrays already."""
        return result

    def prepare(self, case: Case, arrays: Arrays) -> Call | None:
        """The forward of `standardize`, in the types that both keep."""
        if case.layout.norm != "standardize" or case.direction == "backward":
            return None
        return (lambda: (self._standardize(arrays.x),)) if case.dtype in ("float32", "float64") else None


def scikit_learn() -> Columns:
    """StandardScaler, made anew for each call as its user does."""
    from sklearn.preprocessing import StandardScaler

    return Columns("sklearn", lambda x: StandardScaler().fit_transform(x))


def scipy_zscore() -> Columns:
    """scipy.stats.zscore."""
    from scipy.stats import zscore

    return Columns("scipy", lambda x: zscore(x, axis=0))
