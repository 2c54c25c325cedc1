"""Where the CPU kernels run; that they give what the plain forms give is tested with each of them."""

import torch

from uer.layers.cpu import eager_cpu, product_type, usable


def test_float32_and_float64_on_a_cpu():
    assert usable(torch.zeros(1)) and usable(torch.zeros(1, dtype=torch.float64))
    half = torch.zeros(1, dtype=torch.bfloat16)
    assert not usable(half) and eager_cpu(half)


def test_not_on_another_device():
    tensor = torch.zeros(1, device="meta")
    assert not usable(tensor) and not eager_cpu(tensor)


def test_under_autocast_to_bfloat16_the_factors_of_products_have_this_type():
    one = torch.zeros(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert usable(one) and usable(one.bfloat16()) and not usable(one.double())
        assert product_type(one) == product_type(one.bfloat16()) == torch.bfloat16
    assert product_type(one) == torch.float32 and product_type(one.double()) == torch.float64


def test_not_under_autocast_to_float16():
    with torch.autocast("cpu", torch.float16):
        assert not usable(torch.zeros(1)) and eager_cpu(torch.zeros(1))


def test_not_in_compiled_code():
    def function(x):
        return x + (1 if usable(x) else 0) + (2 if eager_cpu(x) else 0)

    found = [torch.compile(function, backend="eager", fullgraph=True)(torch.zeros(1)), function(torch.zeros(1))]
    assert [int(value) for value in found] == [0, 3]
