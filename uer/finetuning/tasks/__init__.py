"""The tasks, by the name that a fine-tuned model's settings carry."""

from uer.finetuning.tasks.classification import Classification

TASKS = {"classifier": Classification}
