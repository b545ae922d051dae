"""Hand-written numba kernels as a peer: layer norm on rows, batch norm on columns; float32 and float64.

What a NumPy user writes who wants speed: parallel over rows, two passes for the variance, fast-math sums.
"""

import numba
import numpy as np
from numba import njit, prange

from bench.cases import Arrays, Case
from bench.peers import Call, eps_of

BLOCKS = 16  # of rows, for sums down the columns


class Numba:
    """Layer norm, and batch norm on (N, C) and NHWC."""

    name = "numba"

    def set_threads(self, threads: int) -> None:
        """Set the threads of numba's parallel loops."""
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def to_numpy(self, result: np.ndarray, case: Case) -> np.ndarray:
        """Results are arrays already."""
        return result

    def prepare(self, case: Case, arrays: Arrays) -> Call | None:
        """A call on two-dimensional views, or None where there is no kernel."""
        norm, eps = case.layout.norm, eps_of(case)
        columns = norm == "batch" and case.view.weight_axes[0] == len(case.shape) - 1
        if case.dtype not in ("float32", "float64") or not (norm == "layer" or columns):
            return None
        n = case.shape[-1]
        x, dy, weight, bias = arrays.x.reshape(-1, n), arrays.dy.reshape(-1, n), arrays.weight, arrays.bias
        forward, backward = (column_forward, column_backward) if columns else (row_forward, row_backward)
        eps = x.dtype.type(eps)
        if case.direction == "forward":
            return lambda: (forward(x, weight, bias, eps)[0].reshape(case.shape),)
        _, mean, rstd = forward(x, weight, bias, eps)

        def call():
            dx, dweight, dbias = backward(dy, x, mean, rstd, weight)
            return dx.reshape(case.shape), dweight, dbias

        return call


@njit(parallel=True, fastmath=True, cache=True)
def row_forward(x, weight, bias, eps):
    rows, n = x.shape
    y = np.empty_like(x)
    mean = np.empty(rows, x.dtype)
    rstd = np.empty(rows, x.dtype)
    for i in prange(rows):
        total = x.dtype.type(0)
        for j in range(n):
            total += x[i, j]
        m = total / n
        squares = x.dtype.type(0)
        for j in range(n):
            squares += (x[i, j] - m) * (x[i, j] - m)
        r = 1 / np.sqrt(squares / n + eps)
        for j in range(n):
            y[i, j] = (x[i, j] - m) * r * weight[j] + bias[j]
        mean[i] = m
        rstd[i] = r
    return y, mean, rstd


@njit(parallel=True, fastmath=True, cache=True)
def row_backward(dy, x, mean, rstd, weight):
    rows, n = x.shape
    dx = np.empty_like(x)
    dweight = np.zeros((BLOCKS, n), x.dtype)
    dbias = np.zeros((BLOCKS, n), x.dtype)
    for block in prange(BLOCKS):
        for i in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            m, r = mean[i], rstd[i]
            a = x.dtype.type(0)
            b = x.dtype.type(0)
            for j in range(n):
                xhat = (x[i, j] - m) * r
                g = dy[i, j] * weight[j]
                a += g
                b += g * xhat
                dweight[block, j] += dy[i, j] * xhat
                dbias[block, j] += dy[i, j]
            a /= n
            b /= n
            for j in range(n):
                dx[i, j] = r * (dy[i, j] * weight[j] - a - (x[i, j] - m) * r * b)
    return dx, dweight.sum(axis=0), dbias.sum(axis=0)


@njit(parallel=True, fastmath=True, cache=True)
def column_forward(x, weight, bias, eps):
    rows, channels = x.shape
    sums = np.zeros((BLOCKS, channels), x.dtype)
    for block in prange(BLOCKS):
        for i in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            for c in range(channels):
                sums[block, c] += x[i, c]
    mean = sums.sum(axis=0) / x.dtype.type(rows)
    squares = np.zeros((BLOCKS, channels), x.dtype)
    for block in prange(BLOCKS):
        for i in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            for c in range(channels):
                squares[block, c] += (x[i, c] - mean[c]) * (x[i, c] - mean[c])
    rstd = 1 / np.sqrt(squares.sum(axis=0) / x.dtype.type(rows) + eps)
    y = np.empty_like(x)
    for i in prange(rows):
        for c in range(channels):
            y[i, c] = (x[i, c] - mean[c]) * rstd[c] * weight[c] + bias[c]
    return y, mean, rstd


@njit(parallel=True, fastmath=True, cache=True)
def column_backward(dy, x, mean, rstd, weight):
    rows, channels = x.shape
    products = np.zeros((BLOCKS, channels), x.dtype)
    sums = np.zeros((BLOCKS, channels), x.dtype)
    for block in prange(BLOCKS):
        for i in range(rows * block // BLOCKS, rows * (block + 1) // BLOCKS):
            for c in range(channels):
                products[block, c] += dy[i, c] * (x[i, c] - mean[c]) * rstd[c]
                sums[block, c] += dy[i, c]
    dweight = products.sum(axis=0)
    dbias = sums.sum(axis=0)
    a = weight * rstd
    b = dbias / x.dtype.type(rows)
    c_ = dweight / x.dtype.type(rows) * rstd
    dx = np.empty_like(x)
    for i in prange(rows):
        for c in range(channels):
            dx[i, c] = a[c] * (dy[i, c] - b[c] - (x[i, c] - mean[c]) * c_[c])
    return dx, dweight, dbias
