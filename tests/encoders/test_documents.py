"""Rows of several documents give what the documents give as rows of their own."""

import pytest
import torch

from uer.backbone import Backbone
from uer.config import ModelConfig
from uer.data.batch import Batch, Labels, Side
from uer.layers.layout import document_starts
from uer.model import build_model

VOCAB, CLS, SEP = 37, 3, 4
CONFIG = ModelConfig(emb_size=24, hidden_size=24, feedforward_size=34, heads_num=3, layers_num=3, dropout=0.0,
                     max_seq_length=19, embedding=("word", "pos", "seg"), tie_weights=True)
# The end of a document that the row before began, two whole ones, and the beginning of a third; then a shorter row.
PIECES = [[[9, 8, 7, SEP], [CLS, 5, 6, SEP], [CLS, 10, 11, 12, 13, SEP], [CLS, 14, 15]],
          [[CLS, 16, SEP], [CLS, 17, 18, 19, 20, 21, 22, SEP]]]


def padded(rows):
    length = max(map(len, rows))
    src = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    seg = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return src, seg


PACKED = padded([[token for piece in pieces for token in piece] for pieces in PIECES])
APART = padded([piece for pieces in PIECES for piece in pieces])


def test_documents_begin_where_their_token_stands():
    src = torch.tensor([[5, 6, 9, 5, 9, 7], [9, 1, 1, 1, 1, 1]])
    assert document_starts(src, 9).tolist() == [[0, 0, 2, 2, 4, 4], [0] * 6]


def backbone(document_start, unpad, **settings):
    torch.manual_seed(4)
    return Backbone(ModelConfig(**{**vars(CONFIG), **settings}), VOCAB, unpad=unpad, document_start=document_start)


@pytest.mark.parametrize("unpad", ["on", "off"])
@pytest.mark.parametrize("settings", [{}, {"layernorm_positioning": "pre"}, {"has_residual_attention": True},
                                      {"relative_position_embedding": True}, {"mask": "causal"},
                                      {"rotary_position_embedding": True, "attention_window": 4,
                                       "global_attention_every": 2}, {"alibi_position_embedding": True}])
def test_hidden_states_equal_those_of_single_rows(unpad, settings):
    with torch.no_grad():
        together = backbone(CLS, unpad, **settings).encode(*PACKED)[PACKED[1] > 0]
        apart = backbone(None, "off", **settings).encode(*APART)[APART[1] > 0]
    assert torch.allclose(together, apart, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(backbone(None, unpad, **settings).encode(*PACKED)[PACKED[1] > 0], apart, atol=1e-2)


# Predicted: (piece, place in it) -> the token that stands there; two in one piece, none in others.
PREDICTED = {(0, 1): 30, (2, 1): 31, (2, 4): 32, (4, 1): 33, (5, 0): 34, (5, 6): 35}


def batch(rows, place_of):
    """A batch that predicts PREDICTED; `place_of` maps a piece to its row and the column where it begins."""
    src, seg = rows
    wanted = {}
    for (piece, place), label in PREDICTED.items():
        row, column = place_of[piece]
        wanted.setdefault(row, []).append((column + place, label))
    width = max(map(len, wanted.values()))
    entries = [wanted.get(row, []) + [(0, -100)] * (width - len(wanted.get(row, []))) for row in range(len(src))]
    positions, labels = torch.tensor(entries).unbind(-1)
    return Batch(Side(src, seg), {"mlm": Labels(labels, positions)}, torch.arange(len(src)))


@pytest.mark.parametrize("unpad", ["on", "off"])
def test_loss_and_gradients_equal_those_of_single_rows(unpad):
    places, piece = {}, 0
    for row, pieces in enumerate(PIECES):
        column = 0
        for tokens in pieces:
            places[piece] = (row, column)
            piece, column = piece + 1, column + len(tokens)
    results = []
    for document_start, rows, where in ((CLS, PACKED, places), (None, APART, {n: (n, 0) for n in range(piece)})):
        torch.manual_seed(6)
        model = build_model(CONFIG, VOCAB, unpad=unpad, document_start=document_start)
        loss = model(batch(rows, where)).loss
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (expected_loss, expected) = results
    assert torch.allclose(loss, expected_loss, atol=1e-5)
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-5), name


def test_a_row_of_one_document_is_not_changed():
    row = (torch.tensor([[CLS, 5, 6, 7, SEP]]), torch.ones(1, 5, dtype=torch.long))
    with torch.no_grad():
        assert torch.equal(backbone(CLS, "off").encode(*row), backbone(None, "off").encode(*row))
