"""Fine-tuned models of Hugging Face as tasks of ours: which task trains which head, and what the labels are called."""

from collections.abc import Mapping
from typing import Any

from uer.convert.settings import labels_of
from uer.errors import UserError
from uer.finetuning.task import Task
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.finetuning.tasks.dbqa import Dbqa
from uer.finetuning.tasks.multi_label import MultiLabel
from uer.finetuning.tasks.ner import Ner
from uer.finetuning.tasks.regression import Regression

# The tasks that train a fine-tuned model's head; the first is the usual one.
HEAD_TASKS: dict[str, tuple[type[Task], ...]] = {
    "text_classification": (Classification, MultiLabel, Regression, Dbqa),
    "token_classification": (Ner,),
    "extractive_qa": (ReadingComprehension,),
}
# What Hugging Face calls these tasks; its pipeline turns logits into scores accordingly.
PROBLEM_TYPES = {"classifier": "single_label_classification", "multi_label": "multi_label_classification",
                 "regression": "regression", "dbqa": "single_label_classification"}


def task_of_head(head: str, sizes: Mapping[str, int], their_config: Mapping[str, Any], path: str) -> Task:
    """The task of a model from Hugging Face: the one that its problem_type names, or the head's usual one.

    Args:
        head: a key of `HEAD_TASKS`.
        sizes: `Conversion.sizes`.
        their_config: config.json's content.
        path: the model's, for the messages.

    Raises:
        UserError: an unknown problem_type, or names for another number of labels than the weights have.
    """
    labels = labels_of(their_config, sizes["labels"], path) if "labels" in sizes else ()
    wanted = their_config.get("problem_type") or PROBLEM_TYPES["regression" if len(labels) == 1 else "classifier"]
    tasks = HEAD_TASKS[head]
    fitting = [task for task in tasks if len(tasks) == 1 or PROBLEM_TYPES[task.name] == wanted]
    if not fitting:
        known = dict.fromkeys(PROBLEM_TYPES.values())
        raise UserError(f"{path}: problem_type {wanted} is unknown; choose from: {', '.join(known)}")
    return fitting[0].from_settings({"labels": list(labels)}) if labels else fitting[0].of_labels_num(None)
