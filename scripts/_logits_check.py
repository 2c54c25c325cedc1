"""Do our model and transformers' give the same logits? What the conversion scripts share; not a command.

Both models read the same real text; a conversion is right when no logit differs by more than `TOLERANCE`.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.checkpoint.files import load_into
from uer.config import ModelConfig
from uer.convert import BERT
from uer.convert.bert import CLASSES
from uer.convert.names import some
from uer.errors import UserError
from uer.model import Backbone, build_model
from uer.tokenizers import Tokenizer

TOLERANCE = 1e-4
TEXTS = (
    ("中国的首都是北京。", ""),
    ("长江是中国最长的河流，全长约6300公里，流经十一个省、自治区和直辖市，最后注入东海。", ""),
    ("这家酒店的房间很干净，服务员也很热情，就是早餐一般。", "总的来说值得推荐，下次来Shanghai还会住这里。"),
    ("人工智能是一门研究如何使计算机模拟人的智能的学科。", "深度学习（deep learning）是它的一个分支。"),
)
LONG_ROW = 128  # positions that the longest row fills, where the model has so many

Logits = dict[str, Tensor]


def transformers() -> ModuleType:
    """The transformers package, quiet and offline.

    Raises:
        UserError: it is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import transformers as package
    except ImportError as error:
        raise UserError(f"the check of the logits needs transformers ({error}): pip install transformers, or leave the "
                        "check out by --no_check") from None
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def sample_batch(vocab_size: int, max_length: int, tokenizer: Tokenizer | None) -> tuple[Tensor, Tensor]:
    """Rows of real text, single and paired, short and long, padded: src, seg (B, S).

    Without a tokenizer that fits the model, numbers spread over the vocabulary stand for text.
    """
    if tokenizer is None:
        length = min(max_length, LONG_ROW)
        src = (torch.arange(4 * length).reshape(4, length) * 7919 + 11) % vocab_size
        places = torch.arange(length)
        lengths = torch.tensor([length, max(1, length // 2), max(1, length // 3), min(9, length)])[:, None]
        return src, (places < lengths) * (1 + (places >= lengths // 2))
    rows = [_row(tokenizer, first, second, max_length) for first, second in TEXTS]
    rows.append(_row(tokenizer, "".join(first + second for first, second in TEXTS) * 8, "", min(max_length, LONG_ROW)))
    length = max(len(ids) for ids, _ in rows)
    src = torch.tensor([ids + [tokenizer.vocab.pad_id] * (length - len(ids)) for ids, _ in rows])
    return src, torch.tensor([segments + [0] * (length - len(segments)) for _, segments in rows])


def _row(tokenizer: Tokenizer, first: str, second: str, max_length: int) -> tuple[list[int], list[int]]:
    vocab = tokenizer.vocab
    ids = [vocab.cls_id, *tokenizer.encode(first), vocab.sep_id]
    segments = [1] * len(ids)
    if second:
        tail = [*tokenizer.encode(second), vocab.sep_id]
        ids, segments = ids + tail, segments + [2] * len(tail)
    return ids[:max_length], segments[:max_length]


@torch.no_grad()
def our_logits(config: ModelConfig, vocab_size: int, weights: Mapping[str, Tensor], head: str, src: Tensor,
               seg: Tensor) -> Logits:
    """What `uer.model` computes from UER weights."""
    if head in ("mlm", "bert"):
        model: Backbone = build_model(replace(config, target=("mlm",)), vocab_size)
    else:
        model = Backbone(config, vocab_size)
    report = load_into(model.eval(), weights, "the converted weights")
    assert not report.missing and not report.other_shape, report.lines()
    hidden = model.encode(src, seg)

    def layer(name: str, states: Tensor) -> Tensor:
        return F.linear(states, weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float())

    if head == "mlm":
        return {"logits": model.target["mlm"].logits(hidden)}
    if head == "bert":
        pooled = torch.tanh(layer("target.sp.linear_1", hidden[:, 0]))
        return {"prediction_logits": model.target["mlm"].logits(hidden),
                "seq_relationship_logits": layer("target.sp.linear_2", pooled)}
    if head == "text_classification":
        return {"logits": layer("output_layer_2", torch.tanh(layer("output_layer_1", hidden[:, 0])))}
    if head == "token_classification":
        return {"logits": layer("output_layer", hidden)}
    start, end = layer("output_layer", hidden).unbind(-1)
    return {"start_logits": start, "end_logits": end}


@torch.no_grad()
def their_logits(model: nn.Module, src: Tensor, seg: Tensor) -> Logits:
    """What transformers computes; padding has segment 0 there, and a mask of its own."""
    outputs = model(input_ids=src, token_type_ids=(seg - 1).clamp(min=0), attention_mask=(seg > 0).long())
    return {name: value for name, value in outputs.items() if name.endswith("logits")}


def open_folder(folder: Path, head: str) -> nn.Module:
    """The model in a folder, opened as a user would, every weight accounted for."""
    package = transformers()
    model, info = getattr(package, CLASSES[head]).from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise UserError(f"{folder}: transformers {package.__version__} finds {kind}: {some(sorted(info[kind]))}")
    return model.float().eval()


def open_any_folder(folder: Path, head: str) -> nn.Module:
    """The model in a folder of any origin; weights that this head has no place for are passed over."""
    return getattr(transformers(), CLASSES[head]).from_pretrained(folder).float().eval()


def open_weights(weights: Mapping[str, Tensor], config: Mapping[str, Any], head: str) -> nn.Module:
    """A model of transformers with these weights."""
    package = transformers()
    model = getattr(package, CLASSES[head])(package.BertConfig(**config))
    report = model.load_state_dict(dict(weights), strict=False)
    missing = [name for name in report.missing_keys
               if name not in BERT.duplicates and not name.endswith(BERT.buffers)]
    tied = {row.hugging_face for row in BERT.heads[head] if row.tied_to} if config["tie_word_embeddings"] else set()
    missing = [name for name in missing if name not in tied]
    if missing or report.unexpected_keys:
        raise UserError(f"transformers {package.__version__}: missing: {some(missing) or 'none'}; without a place: "
                        f"{some(report.unexpected_keys) or 'none'}")
    model.tie_weights()
    return model.float().eval()


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """The folder's tokenizer gives our ids for real text.

    Raises:
        UserError: it does not.
    """
    theirs = transformers().AutoTokenizer.from_pretrained(folder)
    for first, second in TEXTS:
        expected, segments = _row(tokenizer, first, second, 1 << 20)
        found = theirs(first, second or None)
        if found["input_ids"] != expected or found["token_type_ids"] != [number - 1 for number in segments]:
            raise UserError(f"{folder}: its tokenizer gives other ids than ours for '{first}'")


def largest_difference(ours: Logits, theirs: Logits, seg: Tensor) -> float:
    """The largest difference of any logit; those of padding do not count."""
    assert ours.keys() == theirs.keys(), (sorted(ours), sorted(theirs))
    real, worst = seg > 0, 0.0
    for name, logits in ours.items():
        other = theirs[name]
        if logits.shape[:2] == real.shape:
            logits, other = logits[real], other[real]
        worst = max(worst, float((logits - other).abs().nan_to_num(nan=torch.inf).max()))
    return worst


def require_equal(ours: Logits, theirs: Logits, seg: Tensor, what: str) -> str:
    """One line that says how equal they are.

    Raises:
        UserError: they differ by more than `TOLERANCE`.
    """
    if not all(torch.isfinite(logits).all() for logits in ours.values()):
        raise UserError(f"{what}: its logits are not finite numbers, so its weights are damaged; nothing was written")
    difference = largest_difference(ours, theirs, seg)
    version = transformers().__version__
    if not difference <= TOLERANCE:
        raise UserError(f"{what}: the check failed: logits differ from those of transformers {version} by up to "
                        f"{difference:.3g} (at most {TOLERANCE:g} is right); nothing was written")
    return (f"on {int((seg > 0).sum())} tokens the logits differ from those of transformers {version} by at most "
            f"{difference:.1e}")
