"""Let a fine-tuned teacher write the `logits` column that `run_classifier.py --soft_targets` learns from.

--test_path is the student's training file, --prediction_path the new one: its rows with the teacher's logits.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import ModelConfig, TokenizerConfig
from uer.data.files import atomic_path
from uer.errors import UserError
from uer.finetuning.config import InferConfig
from uer.finetuning.infer import compute_outputs
from uer.finetuning.labels import train_labels
from uer.finetuning.readers import read_table
from uer.finetuning.tasks.classification import Classification, number_words


def main() -> None:
    config, *configs = cli.parse(__doc__, (InferConfig, ModelConfig, TokenizerConfig))
    table = read_table(config.test_path, ("label", "text_a"), ("text_b",))
    task, examples, outputs = compute_outputs(Classification, config, *configs)
    if task.labels != train_labels(table):
        raise UserError(f"{config.test_path}: its labels are not the teacher's ({', '.join(task.labels.names)})")
    kept = set(table.lines)
    logits = number_words([output for output, line in zip(outputs, examples.info["table"].lines) if line in kept])
    columns = {name: [" ".join(text.split()) for text in table[name]] for name in ("label", "text_a", "text_b")
               if name in table}
    columns["logits"] = logits
    with atomic_path(config.prediction_path) as temporary:
        lines = ["\t".join(columns), *map("\t".join, zip(*columns.values()))]
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(table)} rows written to {config.prediction_path}")


if __name__ == "__main__":
    cli.run(main)
