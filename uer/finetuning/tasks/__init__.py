"""The tasks, one file each, by the names in their saved settings; `uer.finetuning.task` says what a task is.

All of them are trained, evaluated and saved by the same code. A new one is one file, one line here, the two scripts
that name its class, and one entry in tests/contract.
"""

from uer.finetuning.task import Task
from uer.finetuning.tasks.c3 import MultipleChoiceTask
from uer.finetuning.tasks.chid import Chid
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.finetuning.tasks.dbqa import Dbqa
from uer.finetuning.tasks.multi_label import MultiLabel
from uer.finetuning.tasks.multi_task import MultiTask
from uer.finetuning.tasks.ner import Ner
from uer.finetuning.tasks.prompt import PromptClassification
from uer.finetuning.tasks.regression import Regression
from uer.finetuning.tasks.siamese import Siamese
from uer.finetuning.tasks.simcse import Simcse
from uer.finetuning.tasks.text2text import Text2Text

TASKS: dict[str, type[Task]] = {
    "classifier": Classification,
    "multi_label": MultiLabel,
    "regression": Regression,
    "siamese": Siamese,
    "simcse": Simcse,
    "ner": Ner,
    "cmrc": ReadingComprehension,
    "c3": MultipleChoiceTask,
    "dbqa": Dbqa,
    "text2text": Text2Text,
    "classifier_mt": MultiTask,
    "chid": Chid,
    "classifier_prompt": PromptClassification,
}

__all__ = ["TASKS", "Task"]
