"""Callers with little stack: kernels and drivers keep their large arrays elsewhere."""

import pytest
from interpreter import output_of

import fastnorm

CODE = """
import sys, threading
import numpy as np, fastnorm
from fastnorm import nn

rng = np.random.default_rng(0)
fastnorm.set_num_threads(1)
net, h = nn.LSTM(8, 16, norm="layer", rng=0), np.ones((5, 3, 16), np.float32)

def calls(dtype):
    x, dy = rng.standard_normal((2, 64, 48)).astype(dtype)
    image, weight, mask = x.reshape(4, 8, 4, 24), np.ones(48, dtype), rng.random(x.shape) < 0.9
    few = x.reshape(-1, 3)
    narrow = fastnorm.batch_norm(few, return_stats=True)[1]
    layer = fastnorm.layer_norm(x, weight, weight, return_stats=True)[1]
    batch = fastnorm.batch_norm(x, weight, weight, return_stats=True)[1]
    group = fastnorm.group_norm(image, 2, return_stats=True)[1]
    return [
        lambda: fastnorm.layer_norm(x, weight, weight),
        lambda: fastnorm.layer_norm(0 * x),
        lambda: fastnorm.layer_norm_backward(dy, x, layer, weight),
        lambda: fastnorm.batch_norm(x, weight, weight),
        lambda: fastnorm.batch_norm_backward(dy, x, batch, weight),
        lambda: fastnorm.batch_norm(few, weight[:3], weight[:3]),
        lambda: fastnorm.batch_norm_backward(dy.reshape(-1, 3), few, narrow, weight[:3]),
        lambda: fastnorm.group_norm(image, 2, weight[:8]),
        lambda: fastnorm.group_norm_backward(dy.reshape(image.shape), image, group, 2, weight[:8]),
        lambda: fastnorm.weight_norm_backward(dy, x, weight[:1].repeat(64)),
        lambda: fastnorm.moments(x, where=mask),
        lambda: fastnorm.normalize_backward(dy, x, layer, -1, weight, where=mask)[0],
    ]

threading.stack_size(32768)
for dtype in ("float32", "float64", "float16"):
    for call in calls(dtype):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
thread = threading.Thread(target=lambda: net(np.ones((5, 3, 8), np.float32))[1](h))
thread.start()
thread.join()
print("done")
"""


@pytest.mark.parametrize("tier", fastnorm.isa_tiers())
def test_a_thread_with_the_smallest_stack_may_call(tier):
    assert output_of(CODE, FASTNORM_ISA=tier, timeout=60) == "done"
