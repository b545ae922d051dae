"""The compiled functions and the oracle are called alike."""

import inspect

import pytest

import fastnorm
from fastnorm import reference

FUNCTIONS = [
    "moments", "normalize", "normalize_backward",
    "layer_norm", "layer_norm_backward",
    "rms_norm", "rms_norm_backward",
    "batch_norm", "batch_norm_backward",
    "instance_norm", "instance_norm_backward",
    "group_norm", "group_norm_backward",
    "weight_norm", "weight_norm_backward",
    "mean_only_batch_norm", "mean_only_batch_norm_backward",
    "standardize", "l2_normalize",
]  # fmt: skip


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_is_the_oracles(name):
    assert parameters(getattr(fastnorm, name)) == parameters(getattr(reference, name))


def test_every_function_of_the_oracle_is_listed():
    public = {n for n, f in vars(reference).items() if inspect.isfunction(f) and not n.startswith("_")}
    assert public - {"prod"} == set(FUNCTIONS)


def test_signature_is_the_contract():
    # Spelled out once, so that both sides cannot drift away together.
    expected = (
        "(x, weight=None, bias=None, *, running_mean=None, running_var=None, training=True, momentum=0.1, "
        "eps=1e-05, channel_axis=1, where=None, out=None, return_stats=False)"
    )
    signature = inspect.signature(fastnorm.batch_norm)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == expected
