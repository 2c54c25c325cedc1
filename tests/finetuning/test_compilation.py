"""`--compile on` gives the same model to rounding, under the same names, without a graph break.

The graph is run by torch's "eager" backend here: the kernels of inductor take a minute to compile.
"""

import pytest
import torch
from torch import nn

from uer.checkpoint.files import load_weights
from uer.errors import UserError
from uer.finetuning.command import finetune, parse_with
from uer.finetuning.compilation import UPDATES_TO_PAY, is_compiled
from uer.finetuning.config import GridConfig
from uer.finetuning.grid import run_grid
from uer.finetuning.tasks.classification import Classification
from uer.runtime.failures import as_user_errors


@pytest.fixture
def graphs(monkeypatch) -> list:
    """Graphs that were made, each for one kind of batch."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic: original(self, backend=backend, fullgraph=True,
                                                                             dynamic=dynamic))
    torch._dynamo.reset()
    return made


def weights(tiny, **changes) -> dict:
    finetune("test", Classification, tiny.flags(epochs_num=1, **changes))
    return load_weights(tiny.path("out/model.bin"))


def test_the_same_weights_to_rounding_and_a_grids_trials_share_the_graphs(tiny, graphs):
    changes = {"pooling": "first", "use_adv": True, "adv_type": "pgd", "pgd_k": 1, "test_path": tiny.path("test.tsv")}
    plain, compiled = weights(tiny, **changes), weights(tiny, compile="on", **changes)
    assert len(graphs) == 2  # training and evaluation, for all lengths and for the smaller last batch
    assert list(plain) == list(compiled)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=2e-4)
    flags = tiny.flags(batch_size_list=(8, 16), learning_rate_list=(0.01,), epochs_num_list=(1,), parallel_trials=1,
                       **changes)
    keys = []
    for switch in ("on", "off"):
        command, (config,) = parse_with("test", Classification, (GridConfig,), [*flags, "--compile", switch])
        keys.append({record["key"] for record in run_grid(command, config)})
    assert len(graphs) == 2  # those of the first training
    assert not keys[0] & keys[1]


def test_when_it_is_used(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert is_compiled("on", 1, cpu) and not is_compiled("off", 10**9, cuda)
    assert not is_compiled("auto", 10**9, cpu)
    assert is_compiled("auto", UPDATES_TO_PAY, cuda) and not is_compiled("auto", UPDATES_TO_PAY - 1, cuda)


def test_no_compiler_and_its_failures_are_one_line(tiny, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"--compile on: the C\+\+ compiler 'no-such-compiler' is not there"):
        weights(tiny, compile="on")

    def broken(graph, inputs):
        raise ValueError("no\nheaders")

    message = r"torch.compile failed \(.*no headers.*\); --compile off does without it"
    with pytest.raises(UserError, match=message), as_user_errors():
        torch.compile(torch.neg, backend=broken)(torch.ones(2))
    with pytest.raises(ZeroDivisionError), as_user_errors():
        raise ZeroDivisionError
