"""What both ways of a BERT share: between UER and Hugging Face, there and back. Not a command."""

from collections.abc import Mapping

from torch import Tensor

from uer.config import ModelConfig
from uer.convert import BERT, names
from uer.errors import UserError
from uer.finetuning.task import Task
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.finetuning.tasks.multi_label import MultiLabel
from uer.finetuning.tasks.ner import Ner
from uer.finetuning.tasks.regression import Regression

# The targets of a model that was pretrained with this head.
TARGETS = {"mlm": ("mlm",), "bert": ("mlm", "sp")}
# The tasks that train a fine-tuned model's head; the first is the usual one.
TASKS: dict[str, tuple[type[Task], ...]] = {
    "text_classification": (Classification, MultiLabel, Regression),
    "token_classification": (Ner,),
    "extractive_qa": (ReadingComprehension,),
}
# What Hugging Face calls these tasks; its pipeline turns logits into scores accordingly.
PROBLEM_TYPES = {"classifier": "single_label_classification", "multi_label": "multi_label_classification",
                 "regression": "regression"}


def require_type(weights: Mapping[str, Tensor], head: str, side: names.Side, path: str) -> None:
    """
    Raises:
        UserError: --type bert for a model that was pretrained without next-sentence prediction.
    """
    fitting = names.fitting_heads(weights, BERT, side)
    if head == "bert" and "mlm" in fitting and "bert" not in fitting:
        raise UserError(f"{path}: --type bert needs the layers of next-sentence prediction, which it has not "
                        f"({BERT.heads['bert'][0].name(side)}); --type mlm fits")


def require_layers(given: int | None, found: int, path: str) -> None:
    """
    Raises:
        UserError: the user's number of layers is not the checkpoint's.
    """
    if given is not None and given != found:
        raise UserError(f"layers_num is {given}, but {path} has {found} layers")


def print_model(path: str, config: ModelConfig, converted: names.Conversion, head: str) -> None:
    """Say what is converted, and what is left out."""
    print(f"{path}: {config.layers_num} layers, hidden {config.hidden_size}, {config.heads_num} heads, feed-forward "
          f"{config.feedforward_size}, {config.hidden_act}, vocabulary {converted.sizes['vocab']}, head {head}")
    if converted.left_out:
        print(f"left out, no place under this head: {names.some(converted.left_out)}")
