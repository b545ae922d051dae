"""The layer-normalized LSTM in JAX: jit and lax.scan, gradients by jax.vjp."""

import os

import numpy as np

from bench import machine
from bench.peers_recurrent import EPS, LAYER_LSTM, Problem, Step


class Jax:
    """One compiled function for forward and backward; it only ever runs on all processors."""

    name = "jax"

    def __init__(self) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        self._jax = jax

    def set_threads(self, threads: int) -> None:
        """Its pool has as many threads as this process has processors, and cannot be set."""

    def prepare(self, problem: Problem) -> list[Step]:
        """The layer-normalized LSTM alone."""
        if problem.family != LAYER_LSTM:
            return []
        jax = self._jax
        jnp, nn = jax.numpy, jax.nn

        def norm(a, gain, bias):
            centred = a - a.mean(-1, keepdims=True)
            return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + EPS) * gain + bias

        def forward(x, p):
            turned = p["weight_hh"].T
            projected = norm(x @ p["weight_ih"].T, p["gain_ih"], p["bias_ih"])

            def step(state, a):
                h, c = state
                a = a + norm(h @ turned, p["gain_hh"], p["bias_hh"])
                i, f, g, o = jnp.split(a, 4, axis=-1)
                c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
                h = nn.sigmoid(o) * jnp.tanh(norm(c, p["gain_c"], p["bias_c"]))
                return (h, c), h

            zeros = jnp.zeros((x.shape[1], turned.shape[0]), x.dtype)
            return jax.lax.scan(step, (zeros, zeros), projected)[1]

        @jax.jit
        def train(x, p, dy):
            y, pull = jax.vjp(forward, x, p)
            return y, *pull(dy)

        x, dy = jnp.asarray(problem.x), jnp.asarray(problem.dy)
        p = {name: jnp.asarray(value) for name, value in problem.params.items()}

        def read(result):
            y, dx, grads = result
            named = {"y": y, "dx": dx, **grads}
            return {name: np.asarray(array) for name, array in named.items()}

        call = lambda: jax.block_until_ready(train(x, p, dy))  # noqa: E731
        return [Step(self.name, call, read, only_threads=machine.processors())]
