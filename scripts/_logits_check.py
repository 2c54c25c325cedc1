"""Do our model and transformers' give the same logits? What the conversion scripts share; not a command.

The real models of both sides read the same real text; a conversion is right when no logit differs by more than
`TOLERANCE` of the largest, or, where float32 is less exact, by more than twice what our own differ from float64's.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from uer.backbone import Backbone
from uer.checkpoint.files import load_into
from uer.config import ModelConfig
from uer.convert import Architecture
from uer.convert.architectures.base import target_of
from uer.convert.names import some
from uer.convert.settings import epsilon
from uer.errors import UserError
from uer.finetuning.batches import Batch
from uer.finetuning.hugging_face import task_of_head
from uer.layers.layout import padded_layout
from uer.model import Model, build_model
from uer.tokenizers import Tokenizer

TOLERANCE = 1e-5
"""Of the largest logit, or of 1 where all are smaller."""
TEXTS = (
    ("中国的首都是北京。", ""),
    ("长江是中国最长的河流，全长约6300公里，流经十一个省、自治区和直辖市，最后注入东海。", ""),
    ("这家酒店的房间很干净，服务员也很热情，就是早餐一般。", "总的来说值得推荐，下次来Shanghai还会住这里。"),
    ("人工智能是一门研究如何使计算机模拟人的智能的学科。", "深度学习（deep learning）是它的一个分支。"),
)
MOST_ROUNDING = 100
"""Times what is allowed: differences that are larger are no rounding."""
LONG_ROW = 128  # positions that the longest row fills, where the model has so many
ROW_TARGETS = ("sp",)  # targets with one prediction a row, made from its first position

Logits = dict[str, Tensor]


@dataclass(frozen=True)
class UerModel:
    """A model under UER's names, before it is a module.

    Attributes:
        path: where it came from.
        architecture, head: what it was converted by.
        config: its settings.
        weights: UER's tensors.
        sizes: `Conversion.sizes`.
        config_json: its settings under Hugging Face's names.
    """

    path: str
    architecture: Architecture
    head: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    config_json: Mapping[str, Any]


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


def class_of(architecture: Architecture, head: str) -> Any:
    """The class of transformers for a head.

    Raises:
        UserError: the version that is installed is too old to have it.
    """
    package, name = transformers(), architecture.classes[head]
    if not hasattr(package, name):
        raise UserError(f"transformers {package.__version__} has no {name}, so the logits cannot be checked: install a "
                        "newer version, or leave the check out by --no_check")
    return getattr(package, name)


def batch_of(architecture: Architecture, head: str, vocab_size: int, max_length: int, tokenizer: Tokenizer | None,
             theirs: nn.Module) -> tuple[Tensor, Tensor]:
    """`sample_batch` with what the architecture has: positions, segments, and padding tokens at padding only.

    Args:
        theirs: transformers' model; where the head needs a padding token and its settings have none, it gets token 0.
    """
    src, seg = sample_batch(vocab_size, max_length - architecture.unused_positions, tokenizer)
    padding, real = architecture.padding_id, seg > 0
    if head in architecture.ids_tell_padding:
        padding = theirs.config.pad_token_id = theirs.config.pad_token_id or 0
        src = src.masked_fill(~real, padding)
    if padding is not None:
        src = src.masked_fill((src == padding) & real, (padding + 1) % vocab_size)
    return src, seg.clamp(max=architecture.segments)


def sample_batch(vocab_size: int, max_length: int, tokenizer: Tokenizer | None) -> tuple[Tensor, Tensor]:
    """Rows of real text, single and paired, short and long, padded: src, seg (B, S).

    Without a tokenizer that fits the model, numbers spread over the vocabulary stand for text.
    """
    if tokenizer is None:
        length = min(max_length, LONG_ROW)
        src = (torch.arange(4 * length).reshape(4, length) * 7919 + 11) % vocab_size
        positions = torch.arange(length)
        lengths = torch.tensor([length, max(1, length // 2), max(1, length // 3), min(9, length)])[:, None]
        return src, (positions < lengths) * (1 + (positions >= lengths // 2))
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
def our_logits(model: UerModel, src: Tensor, seg: Tensor) -> Logits:
    """What UER's own model computes for src, seg (B, S), under the names that transformers has for its outputs."""
    if model.head in model.architecture.outputs:
        return _pretraining_logits(model, src, seg)
    task = task_of_head(model.head, model.sizes, model.config_json, model.path)
    module = _filled(task.build(model.config, model.sizes["vocab"]), model.weights)
    logits = module(Batch(src, seg))
    if model.head != "extractive_qa":
        return {"logits": logits}
    start, end = logits.unbind(-1)
    return {"start_logits": start, "end_logits": end}


def _pretraining_logits(model: UerModel, src: Tensor, seg: Tensor) -> Logits:
    outputs = model.architecture.outputs[model.head]
    if "hidden" in outputs:
        encoder = Backbone(model.config, model.sizes["vocab"])
        return {outputs["hidden"]: _filled(encoder, model.architecture.backbone(model.weights)).encode(src, seg)}
    module = build_model(replace(model.config, target=tuple(outputs)), model.sizes["vocab"])
    if module.decoder is not None:
        return {outputs["lm"]: _decoder_logits(_filled(module, model.weights), src, seg)}
    hidden = _filled(module, model.weights).encode(src, seg)  # (B, S, H)
    logits = {}
    for target, name in outputs.items():
        if target in ROW_TARGETS:
            logits[name] = module.target[target].logits(hidden[:, 0])  # (B, labels)
        else:
            logits[name] = module.target[target].logits(hidden.flatten(0, 1)).unflatten(0, src.shape)  # (B, S, V)
    return logits


def _decoder_logits(module: Model, src: Tensor, seg: Tensor) -> Tensor:
    """The logits (B, T, V) of the target `target_of(src)`."""
    tgt, memory_layout, layout = target_of(src), padded_layout(seg), padded_layout(target_of(seg))
    memory = module.encode(src, seg).flatten(0, 1)  # (B * S, H)
    hidden = module.decoder(module.tgt_embedding(tgt, layout), layout, memory, memory_layout)  # (B * T, H)
    return module.target["lm"].logits(layout.scatter(hidden))


def predicted(architecture: Architecture, seg: Tensor) -> Tensor:
    """seg (B, S) of the source -> that of the positions that logits are for."""
    return target_of(seg) if architecture.has_decoder else seg


def with_their_eps(model: UerModel) -> UerModel:
    """The model with the layer norms of Hugging Face's class, where config.json cannot say what they add."""
    eps = model.architecture.layernorm_eps
    return replace(model, config=replace(model.config, layernorm_eps=eps)) if eps else model


def eps_line(model: UerModel, theirs: Logits, src: Tensor, seg: Tensor) -> str:
    """One line on how far the other eps of transformers' layer norms moves logits; "" where it is the same."""
    eps, own = model.architecture.layernorm_eps, epsilon(model.config.layernorm_eps)
    if eps in (None, own):
        return ""
    found = differences(our_logits(model, src, seg), theirs, predicted(model.architecture, seg))
    return (f"its settings have layernorm_eps {own:g}, but {model.architecture.title} has {eps:g} in transformers, "
            f"which changes the logits by up to {max(difference for difference, _ in found):.1e}")


def _filled(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The module with these weights, every parameter covered, without dropout; in float64 where all of them are."""
    if all(tensor.dtype == torch.float64 for tensor in weights.values()):
        module = module.double()
    report = load_into(module.eval(), weights, "the converted weights")
    assert not report.missing and not report.other_shape, report.lines()
    return module


@torch.no_grad()
def their_logits(model: nn.Module, architecture: Architecture, src: Tensor, seg: Tensor) -> Logits:
    """What transformers computes for src, seg (B, S)."""
    outputs = model(**architecture.inputs(src, seg))
    others = {name for head in architecture.outputs.values() for name in head.values()}
    return {name: value for name, value in outputs.items() if name.endswith("logits") or name in others}


def open_folder(folder: Path, architecture: Architecture, head: str) -> nn.Module:
    """The model in a folder, opened as a user would, every weight accounted for."""
    kind = class_of(architecture, head)
    return _complete(*kind.from_pretrained(folder, output_loading_info=True, **architecture.arguments), folder)


def _complete(model: nn.Module, info: Mapping[str, Any], what: object) -> nn.Module:
    """The model that transformers has loaded, every weight accounted for."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise UserError(f"{what}: transformers {transformers().__version__} finds {problem}: "
                            f"{some(sorted(info[problem]))}")
    return model.float().eval()


def open_any_folder(folder: Path, architecture: Architecture, head: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """The model in a folder of any origin; weights that are no part of this head are passed over.

    Args:
        weights: the folder's, tidied. Of two names of one tensor transformers 4 reads only the second, which its own
            files leave out (`NameTable.stores_duplicates`): here the model gets the tensor under both.

    Raises:
        UserError: transformers cannot open it.
    """
    kind, table = class_of(architecture, head), architecture.names
    try:
        model = kind.from_pretrained(folder, **architecture.arguments)
    except Exception as error:  # of many classes; its log says more
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: transformers {transformers().__version__} cannot open it as {kind.__name__}: "
                        f"{reason}") from None
    model = model.float().eval()
    if table.stores_duplicates:
        model.load_state_dict({name: weights[home] for copy, home in table.duplicates.items() if home in weights
                               for name in (home, copy)}, strict=False)
    return model


def open_weights(weights: Mapping[str, Tensor], config_json: Mapping[str, Any], architecture: Architecture, head: str
                 ) -> nn.Module:
    """A model of transformers with these weights."""
    kind, table = class_of(architecture, head), architecture.names
    weights = {name: tensor.float() for name, tensor in weights.items()}
    if architecture.has_decoder:  # whether its weights are tied, a file's tensors decide, not the configuration alone
        config = kind.config_class(**config_json)
        return _complete(*kind.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True),
                         "the converted weights")
    model = kind(kind.config_class(**config_json), **architecture.arguments)
    report = model.load_state_dict(weights, strict=False)
    shared = set()
    if config_json.get("tie_word_embeddings", True):
        shared = {*table.duplicates, *(row.hugging_face for row in table.tied_rows(head))}
    missing = [name for name in report.missing_keys if name not in shared and not name.endswith(table.buffers)]
    if missing or report.unexpected_keys:
        raise UserError(f"transformers {transformers().__version__}: missing: {some(missing) or 'none'}; unknown to "
                        f"it: {some(report.unexpected_keys) or 'none'}")
    model.tie_weights()
    return model.float().eval()


def check_tokenizer(folder: Path, tokenizer: Tokenizer, with_segments: bool = True) -> None:
    """The folder's tokenizer gives our ids for real text, and segments where the model has them.

    Raises:
        UserError: it does not.
    """
    theirs = transformers().AutoTokenizer.from_pretrained(folder)
    for first, second in TEXTS:
        if tokenizer.kind != "bert":  # how two texts are put together differs, and so it does around one
            if theirs(first, add_special_tokens=False)["input_ids"] != tokenizer.encode(first):
                raise UserError(f"{folder}: its tokenizer gives other ids than ours for '{first}'")
            continue
        expected, segments = _row(tokenizer, first, second, 1 << 20)
        found = theirs(first, second or None)
        types = [number - 1 for number in segments] if with_segments else None
        if found["input_ids"] != expected or found.get("token_type_ids") != types:
            raise UserError(f"{folder}: its tokenizer gives other ids than ours for '{first}'")


def differences(ours: Logits, theirs: Logits, seg: Tensor) -> list[tuple[float, float]]:
    """For each output its largest difference, and the largest that is right; logits of padding do not count."""
    assert ours.keys() == theirs.keys(), (sorted(ours), sorted(theirs))
    real, found = seg > 0, []
    for name, logits in ours.items():
        other = theirs[name]
        if logits.shape[:2] == real.shape:
            logits, other = logits[real], other[real]
        difference = float((logits - other).abs().nan_to_num(nan=torch.inf).max())
        found.append((difference, TOLERANCE * max(1.0, float(logits.abs().max()))))
    return found


def require_equal(model: UerModel, theirs: Logits, src: Tensor, seg: Tensor) -> str:
    """One line that says how equal our logits for src, seg (B, S) are to those of transformers.

    Raises:
        UserError: they differ by more than `TOLERANCE` of the largest, and by more than rounding explains.
    """
    ours, real = our_logits(model, src, seg), predicted(model.architecture, seg)
    if not all(torch.isfinite(logits).all() for logits in ours.values()):
        raise UserError(f"{model.path}: its logits are not finite numbers, so its weights are damaged; nothing was "
                        "written")
    found, version = differences(ours, theirs, real), transformers().__version__
    for difference, allowed in found:
        if not difference <= allowed and not (difference <= MOST_ROUNDING * allowed
                                              and difference <= 2 * rounding(model, ours, src, seg)):
            raise UserError(f"{model.path}: the check failed: logits differ from those of transformers {version} by up "
                            f"to {difference:.3g} (at most {allowed:.3g} is right); nothing was written")
    return (f"on {int((real > 0).sum())} tokens the logits differ from those of transformers {version} by at most "
            f"{max(difference for difference, _ in found):.1e}")


def rounding(model: UerModel, ours: Logits, src: Tensor, seg: Tensor) -> float:
    """How far our logits are from those of our model in float64."""
    exact = our_logits(replace(model, weights={name: tensor.double() for name, tensor in model.weights.items()}),
                       src, seg)
    return max(difference for difference, _ in differences(ours, exact, predicted(model.architecture, seg)))
