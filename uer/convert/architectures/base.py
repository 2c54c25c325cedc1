"""What an architecture is: all that the conversions need to know of one, in both directions."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from uer.config import ModelConfig
from uer.convert.names import NameTable
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
    """

    name: str
    title: str
    names: NameTable
    settings: tuple[Setting, ...]
    classes: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, str]]
    inputs: Callable[[Tensor, Tensor], dict[str, Tensor]]
    article: str = "A"

    def targets(self, head: str) -> tuple[str, ...]:
        """The targets of a model with this head; for a head that is not pretrained, the fewest that pretrain one."""
        return tuple(self.outputs.get(head) or min(self.outputs.values(), key=len))

    def told(self, content: Mapping[str, Any], path: str) -> dict[str, Any]:
        """What config.json says that tensors cannot, under UER's names.

        Raises:
            UserError: it is another architecture's, or of a model that computes something that UER's does not.
        """
        kind = content.get("model_type", self.name)
        if kind != self.name:
            raise UserError(f"{path}: model_type is {kind}; only {self.name} can be converted")
        return read_settings(self.settings, content, path, self.title)

    def require_sizes(self, content: Mapping[str, Any], sizes: Mapping[str, int], path: str) -> None:
        """
        Raises:
            UserError: config.json contradicts the sizes of the weights beside it.
        """
        require_sizes(self.settings, content, sizes, path)

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
        known = {**asdict(config), "vocab_size": vocab_size, "pad_id": 0, **(special_ids or {})}
        content = {"architectures": [self.classes[head]], "model_type": self.name,
                   **write_settings(self.settings, known, head)}
        if labels:
            content["id2label"] = {str(number): label for number, label in enumerate(labels)}
            content["label2id"] = {label: number for number, label in enumerate(labels)}
        return content

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
            told: instead of `base`, what config.json says: `told`.

        Raises:
            UserError: `base` contradicts the checkpoint or is another architecture's; or the number of heads or of
                layers is not known.
        """
        measured = measured_settings(self.settings, sizes)
        if base is None:
            base = ModelConfig(**self._not_measured(measured, told or {}, path))
        else:
            require_agreement(self.settings, base, sizes, head, path, self.title)
        if measured["hidden_size"] % base.heads_num:
            raise UserError(f"{path}: hidden size {measured['hidden_size']} is not divisible by {base.heads_num} heads")
        fields = {name: size for name, size in measured.items() if hasattr(base, name)}
        return replace(base, **required_settings(self.settings, head), **fields, target=self.targets(head),
                       tie_weights=tied)

    def _not_measured(self, measured: Mapping[str, int], told: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Settings that tensors do not tell; the number of heads is hidden / 64 where nothing else is known."""
        hidden = measured["hidden_size"]
        needed = {"heads_num": f"hidden size {hidden} is no multiple of 64, so the number of heads is not known",
                  "layers_num": "its layers share one set of weights, so their number is not known"}
        found = {"heads_num": hidden // 64, **told} if hidden % 64 == 0 else dict(told)
        for name, reason in needed.items():
            if name not in measured and name not in found:
                raise UserError(f"{path}: {reason}; give the model's settings (--config_path, or Hugging Face's "
                                "config.json beside the weights)")
        return {name: value for name, value in found.items() if name in ModelConfig.__dataclass_fields__}


def inputs_with_segments(src: Tensor, seg: Tensor) -> dict[str, Tensor]:
    """src, seg (B, S) -> the same for BertModel and its like: segments 0 and 1, and a mask that is 0 at padding."""
    return {"input_ids": src, "token_type_ids": (seg - 1).clamp(min=0), "attention_mask": (seg > 0).long()}
