"""Models on torch's meta device: shapes without values, to count what a model would have and do."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from uer.config import ModelConfig
from uer.errors import UserError

SURELY_SMALL = 1 << 28
"""A model with fewer parameters, in a rough estimate, fits any machine; it is not counted exactly."""

Number = TypeVar("Number", int, float)


class Unfilled(TorchFunctionMode):
    """A context in which modules are made on the meta device: parameters have shapes but no values.

    With `torch.device("meta")` alone torch imports its decompositions for functions such as `normal_`, which takes two
    seconds. Here these functions do nothing.
    """

    FILLING = ("normal_", "uniform_", "zero_", "zeros_", "ones_", "fill_")

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("meta")

    def __enter__(self) -> "Unfilled":
        self.device.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.device.__exit__(*error)

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        if getattr(func, "__name__", "") in self.FILLING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def extrapolated(count: Callable[[int], Number], layers: int) -> Number:
    """The result of `count` for a number of layers, from its results for one and two layers: all layers count the same.

    >>> extrapolated(lambda layers: 100 + 7 * layers, 24)
    268
    """
    one = count(1)
    return one if layers == 1 else one + (layers - 1) * (count(2) - one)


def extrapolated_model(count: Callable[[ModelConfig], Number], config: ModelConfig) -> Number:
    """The result of `count` for a configuration, from its results for one and two layers of encoder and decoder.

    Where only some of the layers attend to all tokens, from those for layers that are all local, and all global.
    """
    if config.attention_window and config.global_attention_every and config.layers_num > 1:
        local = extrapolated_model(count, replace(config, global_attention_every=0))
        whole = extrapolated_model(count, replace(config, attention_window=0, local_rotary_base=None))
        inner = config.layers_num - 1  # the last layer is that of one layer alone
        fraction = -(-inner // config.global_attention_every) / inner
        return local if local == whole else local + fraction * (whole - local)

    def of_layers(encoder: int, decoder: int = 1) -> Number:
        return count(replace(config, layers_num=encoder, **({"decoder_layers_num": decoder} if config.decoder else {})))

    found = extrapolated(of_layers, config.layers_num)
    if not config.decoder:
        return found
    return found + extrapolated(lambda decoder: of_layers(1, decoder), config.decoder_layers_num) - of_layers(1)


class Counted(Protocol):
    """A model whose parameters can be counted."""

    def num_parameters(self) -> int:
        """How many numbers are trained."""


def require_memory(build: Callable[[ModelConfig], Counted], config: ModelConfig, vocab_size: int) -> None:
    """Check that the weights of a model fit into the memory of this machine, which would otherwise swap for minutes.

    Args:
        build: makes the model of a configuration.

    Raises:
        UserError: they do not.
    """
    # A quick lower estimate first: counting the parameters exactly builds a few models on the meta device.
    layers = config.layers_num + (config.decoder_layers_num if config.decoder else 0)
    matrices = layers * config.hidden_size * (config.hidden_size + config.feedforward_size)
    estimate = matrices + (vocab_size + config.max_seq_length) * config.emb_size
    if estimate < SURELY_SMALL or torch.empty(0).device.type == "meta":  # the default device is "meta": no memory
        return

    def numbers(smaller: ModelConfig) -> int:
        with Unfilled():
            return build(smaller).num_parameters()

    count = extrapolated_model(numbers, config)  # parameters; 4 bytes each in fp32
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * count > present:
        raise UserError(f"a model of {count:,} parameters (layers_num {config.layers_num}, hidden_size "
                        f"{config.hidden_size}, feedforward_size {config.feedforward_size}, max_seq_length "
                        f"{config.max_seq_length}, vocabulary {vocab_size:,}) needs {4 * count / 2**30:,.0f} GiB for "
                        f"its weights; this machine has {present / 2**30:,.0f} GiB")
