"""What every embedding, optimizer, schedule and activation must do. A new entry of their tables needs no case."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from tests.tools.configs import model_config
from tests.tools.layouts import exact_layout
from uer.backbone import Backbone
from uer.config import OptimConfig
from uer.embeddings import EMBEDDINGS
from uer.layers.activations import ACTIVATIONS
from uer.layers.layout import padded_layout
from uer.optim import OPTIMIZERS, parameter_groups, set_learning_rate
from uer.optim.schedules import SCHEDULES

ENTRIES, SIZE, LENGTH = 37, 12, 13
SEG = (torch.arange(LENGTH) < torch.tensor([13, 4, 9])[:, None]).long()
SEG[0, 7:] = 2


STREAM = {"embedding": ["word", "seg"], "encoder": "transformer"}
DUAL = {"encoder": "dual", "embedding": ["dual"], "stream_0": STREAM, "stream_1": STREAM, "tie_weights": True}


class Both(Backbone):
    """Computes with the dual encoder too."""

    takes_streams = True


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_an_embedding_does_not_depend_on_padding_or_on_other_rows(name):
    torch.manual_seed(1)
    config = model_config(emb_size=SIZE, hidden_size=SIZE, heads_num=3, layers_num=1, max_seq_length=LENGTH,
                          dropout=0.0, **(DUAL if name == "dual" else {"embedding": list({"word": 0, name: 0})}))
    embedding = Both(config, ENTRIES).embedding
    src = torch.randint(0, ENTRIES, (3, LENGTH))
    rows = []
    for layout in (padded_layout(SEG), exact_layout(SEG)):
        embedded = embedding(src, layout)
        assert embedded.shape == (len(layout.positions()), SIZE) and embedded.isfinite().all()
        rows.append(layout.scatter(embedded))
    torch.testing.assert_close(rows[0][SEG > 0], rows[1][SEG > 0])
    alone = padded_layout(SEG[2:])
    torch.testing.assert_close(alone.scatter(embedding(src[2:], alone))[0, :9], rows[0][2, :9])
    rows[0][SEG > 0].square().sum().backward()
    for key, parameter in embedding.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {key}"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_learns(name):
    """That it goes on from its state to the same bits is tested for each in tests/optim/test_optimizers.py."""
    torch.manual_seed(2)
    model, losses = nn.Linear(7, 3), []
    optimizer = OPTIMIZERS[name](parameter_groups(model), lr=0.0)
    set_learning_rate(optimizer, 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        loss = (model(torch.eye(7)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_gives_a_learning_rate_for_every_step(name):
    for warmup, total_steps in product((0.0, 0.013, 0.5), (1, 2, 17, 1000, 10_000_000)):
        config = OptimConfig(learning_rate=0.25, scheduler=name, warmup=warmup)
        schedule = SCHEDULES[name](config, total_steps)
        steps = range(0, total_steps + 6, max(1, total_steps // 1000))
        rates = [schedule(step) for step in steps]
        assert all(math.isfinite(rate) and 0.0 <= rate <= 0.25 * (1 + 1e-12) for rate in rates)
        assert total_steps < 1000 or max(rates) == pytest.approx(0.25, rel=0.01)  # the peak, once warmed up
        other = SCHEDULES[name](config, total_steps)
        assert rates == [other(step) for step in reversed(steps)][::-1]  # no memory of its own


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_works_on_each_number_alone(name):
    inputs = torch.linspace(-4, 4, 33, dtype=torch.float64, requires_grad=True)
    together = ACTIVATIONS[name](inputs)
    assert together.shape == inputs.shape and together.isfinite().all()
    torch.testing.assert_close(together, torch.stack([ACTIVATIONS[name](one) for one in inputs]))
    assert torch.autograd.gradcheck(lambda x: ACTIVATIONS[name](x), inputs[::5].detach().add(0.01).requires_grad_())
