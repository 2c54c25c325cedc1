"""`pretrain.py --dry_run`: what the run would need, without running it."""

import os
from dataclasses import replace

import numpy as np

from uer.distillation import teacher_architecture
from uer.meta_device import Unfilled
from uer.optim.schedules import SCHEDULES
from uer.planning.flops import mean_length
from uer.planning.plan import Rows, assumed_rows, plan_lines
from uer.tokenizers import build_tokenizers
from uer.training.inputs import Settings, open_data
from uer.training.new_model import new_model


def plan(settings: Settings) -> list[str]:
    """The lines of --dry_run, with the datasets where they exist, else with full rows of the model's longest length."""
    if all(map(os.path.exists, settings.train.dataset_path)):
        data = open_data(settings)
        rows = Rows(data.processor, data.vocab_size, mean_length(data.train, data.processor))
    else:
        vocab = build_tokenizers(settings.tokenizer, ["src"])["src"].vocab
        rows = assumed_rows(settings.model, settings.train.data_processor, len(vocab), vocab.special_ids)
    with Unfilled():  # raises what the run would
        new_model(settings, rows.vocab_size, rows.processor, lambda side, entries: np.zeros(entries, np.int64),
                  tgt_vocab_size=rows.tgt_vocab_size)
    train = replace(settings.train, total_steps=settings.train.decay_steps or settings.train.total_steps)
    if not train.decay_steps:
        SCHEDULES[settings.optim.scheduler](settings.optim, train.total_steps)
    teacher, lengths = None, rows.processor.batch_lengths()
    if settings.distillation.teacher_config_path:
        teacher = teacher_architecture(settings.distillation.teacher_config_path, settings.model.target,
                                       lengths["src"], lengths.get("tgt", 0))
    lines = plan_lines(settings.model, train, settings.parallel, rows, teacher)
    if settings.lora.use_lora:
        lines.append("note: --use_lora needs less: all parameters count as trained here")
    return lines
