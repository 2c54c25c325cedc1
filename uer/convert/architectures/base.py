"""What an architecture is: all that the conversions need to know of one, in both directions."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.config import MODERN, ModelConfig
from uer.convert.changes import DOES_NOT_FIT, Change, reason
from uer.convert.names import NameTable, tidy
from uer.convert.settings import (
    Setting,
    measured_settings,
    read_settings,
    require_agreement,
    require_sizes,
    required_settings,
    write_settings,
)
from uer.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """One kind of model, in UER and in Hugging Face.

    Attributes:
        name: Hugging Face's model_type.
        title: what people call it, such as "BERT".
        article: "A" or "An", before the title.
        names: every tensor, by its two names.
        settings: every setting, by its two names, in the order of config.json.
        classes: the class that transformers opens a folder with this head as, by the head's name.
        outputs: for each head that pretraining trains: UER's target -> the name that transformers has for its logits.
            Where a checkpoint fits several heads, the first is meant.
        inputs: src, seg (B, S) -> the arguments of Hugging Face's model.
        generation: setting of generation_config.json -> the special token's name in UER; empty where nothing is
            generated.
        layernorm_eps: what Hugging Face's layer norms add to the variance, where config.json cannot tell.
        defaults: UER's settings that are usual where neither tensors nor files tell.
        other_types: further values of model_type that this architecture has.
        prepare: Hugging Face's tidied weights, config.json's content, the path -> the weights that `names` describes.
        computed: UER's settings -> those of Hugging Face's tensors that no UER checkpoint has.
        by_head: ending of a Hugging Face name -> the size of a head -> what becomes of the tensor that `names`
            describes, once that size is known.
        complete: UER's weights, as `names` has them -> further ones that UER's model has.
        adopt: UER's weights, maybe of another kind of model that can be converted as this one -> those that `names`
            describes.
        backbone: UER's weights -> those of the one encoder that is converted.
        read_other_files: the folder of Hugging Face's model -> what its other files say, under UER's names.
        first_stream: UER's settings, the path -> those of the one encoder that is converted.
        settings_json: the settings of that encoder -> the content of the file for --config_path.
        files: these settings, the length to which texts are cut -> further files of the folder: path -> content of the
            JSON file.
        arguments: what Hugging Face's class is opened with, so that it has no weights that were never trained.
        notes: beginning of a tensor's name -> what is said where it is left out.
        tokenizers: the kinds of tokenizers whose files a folder may have, by UER's names.
        only_tokenizer: the one kind that transformers opens such a folder with, whatever its files say; "" where they
            decide.
        segments: how many segments tell texts of a row apart, in both models.
        unused_positions: how many of the position embedding's rows Hugging Face's model never reads.
        pooler: whether transformers' `AutoModel` has a pooler.
        padding_id: the token that Hugging Face's model takes for padding wherever it stands; None where the mask tells.
        ids_tell_padding: the heads whose class takes config.json's pad_token_id so.
    """

    name: str
    title: str
    names: NameTable
    settings: tuple[Setting, ...]
    classes: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, str]]
    inputs: Callable[[Tensor, Tensor], dict[str, Tensor]]
    article: str = "A"
    generation: Mapping[str, str] = field(default_factory=dict)
    layernorm_eps: float | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    other_types: tuple[str, ...] = ()
    prepare: Callable[[dict[str, Tensor], Mapping[str, Any], str], dict[str, Tensor]] = lambda weights, *_: weights
    computed: Callable[[ModelConfig], dict[str, Tensor]] = lambda config: {}
    by_head: Mapping[str, Callable[[int], Change]] = field(default_factory=dict)
    complete: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = lambda weights: {}
    adopt: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda weights: weights
    backbone: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda weights: weights
    read_other_files: Callable[[Path], dict[str, Any]] = lambda folder: {}
    first_stream: Callable[[ModelConfig, str], ModelConfig] = lambda config, path: config
    settings_json: Callable[[ModelConfig], dict[str, Any]] = ModelConfig.values
    files: Callable[[ModelConfig, int], dict[str, Any]] = lambda config, seq_length: {}
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    tokenizers: tuple[str, ...] = ("bert",)
    only_tokenizer: str = ""
    segments: int = 2
    unused_positions: int = 0
    padding_id: int | None = None
    pooler: bool = True
    ids_tell_padding: tuple[str, ...] = ()

    @property
    def has_decoder(self) -> bool:
        """Whether an encoder reads the source, and a decoder predicts the target."""
        return "decoder" in self.names.stacks

    def tidied(self, weights: Mapping[str, Tensor], content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
        """Hugging Face's weights as `names` describes them.

        Raises:
            UserError: they compute something that UER's model does not.
        """
        tidied = self.prepare(tidy(weights, self.names), content, path)
        if not self.by_head or self.names.body[0].hugging_face not in tidied:
            return tidied
        size = self._head_size(tidied, content, path)
        try:
            return tidied | {name: change.to_uer((tidied[name],))[0] for name, change in self._by_head(tidied, size)}
        except DOES_NOT_FIT as error:
            raise UserError(f"{path}: its attention does not consist of heads of {size}: {reason(error)}") from None

    def arranged(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """What `tidied` changes by the size of a head, as Hugging Face has it.

        Args:
            weights: under Hugging Face's names, as `names` describes them.
            config: UER's settings.
        """
        size = config.attention_head_size or config.hidden_size // config.heads_num
        return {name: change.to_hugging_face((weights[name],))[0].contiguous()
                for name, change in self._by_head(weights, size)}

    def _by_head(self, weights: Mapping[str, Tensor], size: int) -> list[tuple[str, Change]]:
        return [(name, change(size)) for name in weights for ending, change in self.by_head.items()
                if name.endswith(ending)]

    def _head_size(self, weights: Mapping[str, Tensor], content: Mapping[str, Any], path: str) -> int:
        """The size of a head, which the weights do not tell, from config.json."""
        def told(setting: str) -> int | None:
            rows = (row for row in self.settings if row.uer == setting)
            return next(filter(None, (content.get(row.hugging_face) or row.default for row in rows)), None)

        heads, size = told("heads_num"), told("attention_head_size")
        hidden = weights[self.names.body[0].hugging_face].shape[-1]
        if not size and (type(heads) is not int or heads < 1 or hidden % heads):
            raise UserError(f"{path}: the number of heads is not known, or does not divide {hidden}; the order of "
                            f"{self.title}'s weights depends on it, so config.json must be beside them")
        return size or hidden // heads

    def targets(self, head: str) -> tuple[str, ...]:
        """The targets of a model with this head; for a head that is not pretrained, the fewest that pretrain one."""
        return tuple(self.outputs.get(head) or min(self.outputs.values(), key=len))

    def read_config(self, content: Mapping[str, Any], path: str) -> dict[str, Any]:
        """What config.json says that tensors cannot, under UER's names.

        Raises:
            UserError: it is another architecture's, or of a model that computes something that UER's does not.
        """
        kind = content.get("model_type", self.name)
        if kind not in (self.name, *self.other_types):
            raise UserError(f"{path}: model_type is {kind}; only {self.name} can be converted")
        fixed = {"layernorm_eps": self.layernorm_eps} if self.layernorm_eps else {}
        return {**fixed, **read_settings(self.settings, content, path, self.title)}

    def require_sizes(self, content: Mapping[str, Any], sizes: Mapping[str, int], path: str) -> None:
        """
        Raises:
            UserError: config.json contradicts the sizes of the weights beside it.
        """
        require_sizes(self.settings, content, with_head_size(sizes), path)

    def config_json(self, config: ModelConfig, vocab_size: int, head: str, special_ids: Mapping[str, int] | None = None,
                    labels: tuple[str, ...] = ()) -> dict[str, Any]:
        """The content of config.json.

        Args:
            config: as `model_config` gives it.
            vocab_size: rows of the word embedding.
            head: a key of `classes`.
            special_ids: numbers of special tokens: {"pad_id": 0, "cls_id": ...}; [PAD] is 0 where they are not given.
            labels: the labels' names, for a classification head.
        """
        known = {**asdict(config), "vocab_size": vocab_size, "pad_id": 0, **(special_ids or {}),
                 "head_size": config.attention_head_size or config.hidden_size // config.heads_num,
                 "kv_heads": config.local_kv_heads_num or config.heads_num,
                 "local_base": config.local_rotary_base or config.rotary_base}
        content = {"architectures": [self.classes[head]], "model_type": self.name,
                   **write_settings(self.settings, known, head)}
        if labels:
            content["id2label"] = {str(number): label for number, label in enumerate(labels)}
            content["label2id"] = {label: number for number, label in enumerate(labels)}
        return content

    def generation_json(self, special_ids: Mapping[str, int]) -> dict[str, Any]:
        """The content of generation_config.json; {} where nothing is generated."""
        return {name: special_ids[token] for name, token in self.generation.items() if token in special_ids}

    def model_config(self, sizes: Mapping[str, int], base: ModelConfig | None, head: str, tied: bool, path: str,
                     told: Mapping[str, Any] | None = None) -> ModelConfig:
        """The model that a checkpoint of these sizes holds.

        Args:
            sizes: `Conversion.sizes`.
            base: the model's settings where the user gives them; they say what a checkpoint cannot (heads, activation,
                dropout) and must agree with what a checkpoint can.
            head: what stands on top; "" is nothing.
            tied: whether the output layer shares the word embedding's weight.
            path: the checkpoint's, for the messages.
            told: instead of `base`, what config.json says: `read_config`.

        Raises:
            UserError: `base` contradicts the checkpoint or is another architecture's; or the number of heads or of
                layers is not known.
        """
        sizes = with_head_size(sizes)
        measured = measured_settings(self.settings, sizes)
        if base is None:
            base = ModelConfig(**self._not_measured(measured, {**self.defaults, **(told or {})}, path))
        else:
            base = self.first_stream(base, path)
            self._require_usual(base, path)
            require_agreement(self.settings, base, sizes, head, path, self.title)
        if "head_size" not in measured and measured["hidden_size"] % base.heads_num:
            raise UserError(f"{path}: hidden size {measured['hidden_size']} is not divisible by {base.heads_num} heads")
        values = {name: size for name, size in measured.items() if hasattr(base, name)}
        required = required_settings(self.settings, head)
        own = {name: value for name, value in required.items() if hasattr(base, name)}
        members = {name: value for name, value in required.items() if not hasattr(base, name)}
        config = replace(base, **own, **values, target=self.targets(head), tie_weights=tied,
                         members={**base.members, **members})
        return _with_head_size(config, base, sizes, path)

    def _require_usual(self, base: ModelConfig, path: str) -> None:
        """Of the settings that models later than UER-py's have, those that this architecture does not know."""
        known = {"layer_number_scale", *(row.uer for row in self.settings)}
        usual = ModelConfig()
        for name in MODERN:
            if name not in known and getattr(base, name) != getattr(usual, name):
                raise UserError(f"{path}: {name} is {getattr(base, name)} in the model's settings, but it is "
                                f"{getattr(usual, name)} in Hugging Face's {self.title}")

    def _not_measured(self, measured: Mapping[str, int], told: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Settings that tensors do not tell; the number of heads is hidden / 64 where nothing else is known."""
        hidden = measured["hidden_size"]
        needed = {"heads_num": f"hidden size {hidden} is no multiple of 64, so the number of heads is not known",
                  "layers_num": "its layers share one set of weights, so their number is not known"}
        found = {"heads_num": hidden // 64, **told} if hidden % 64 == 0 else dict(told)
        for name, why in needed.items():
            if name not in measured and name not in found:
                raise UserError(f"{path}: {why}; give the model's settings (--config_path, or Hugging Face's "
                                "config.json beside the weights)")
        return {name: value for name, value in found.items() if name in ModelConfig.__dataclass_fields__}


def with_head_size(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes, and that of a head where the weights tell it: the width of all heads divided by their number."""
    known = "inner" in sizes and "heads" in sizes
    return {**sizes, "head_size": sizes["inner"] // sizes["heads"]} if known else dict(sizes)


def _with_head_size(config: ModelConfig, base: ModelConfig, sizes: Mapping[str, int], path: str) -> ModelConfig:
    """The settings with the size of a head, where the weights have another than hidden / heads."""
    inner, heads = sizes.get("inner", config.hidden_size), config.heads_num
    known = "heads" in sizes or base.attention_head_size is not None
    if inner % heads or (inner != config.hidden_size and not known):
        raise UserError(f"{path}: {heads} heads of {config.hidden_size} / {heads} do not make the width {inner} of the "
                        "attention's linear layers")
    if base.attention_head_size not in (None, inner // heads):
        raise UserError(f"{path}: attention_head_size is {inner // heads}, but the model's settings say "
                        f"{base.attention_head_size}")
    config = replace(config, attention_head_size=None if inner == config.hidden_size else inner // heads)
    return _with_kv_heads(config, base, sizes["kv"] // (inner // heads), path) if "kv" in sizes else config


def _with_kv_heads(config: ModelConfig, base: ModelConfig, kv_heads: int, path: str) -> ModelConfig:
    """The settings with the number of heads of keys and values, where it is another than that of queries."""
    if base.local_kv_heads_num not in (None, kv_heads):
        raise UserError(f"{path}: its weights have {kv_heads} heads of keys and values, but the model's settings say "
                        f"local_kv_heads_num {base.local_kv_heads_num}")
    return replace(config, local_kv_heads_num=None if kv_heads == config.heads_num else kv_heads)


def target_of(rows: Tensor) -> Tensor:
    """Rows (B, S) of the source -> rows (B, T) that stand for a target: other texts, and other lengths."""
    return rows.flip(0)[:, :max(1, rows.shape[1] * 2 // 3)]


def inputs_with_target(src: Tensor, seg: Tensor) -> dict[str, Tensor]:
    """src, seg (B, S) -> source and target of an encoder and a decoder, each with a mask that is 0 at padding."""
    return {"input_ids": src, "attention_mask": (seg > 0).long(), "decoder_input_ids": target_of(src),
            "decoder_attention_mask": (target_of(seg) > 0).long()}


def inputs_with_segments(src: Tensor, seg: Tensor) -> dict[str, Tensor]:
    """src, seg (B, S) -> the same for BertModel and its like: segments 0 and 1, and a mask that is 0 at padding."""
    return {"input_ids": src, "token_type_ids": (seg - 1).clamp(min=0), "attention_mask": (seg > 0).long()}
