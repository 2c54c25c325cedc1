"""`pretrain.py --dry_run`: what the run would need, without running it. The files of weights that it names are read."""

import os
from dataclasses import replace

import numpy as np

from uer.config import ModelConfig
from uer.distillation import teacher_model
from uer.meta_device import Unfilled
from uer.optim.schedules import SCHEDULES
from uer.planning.flops import mean_length
from uer.planning.plan import Rows, assumed_rows, plan_lines
from uer.tokenizers import build_tokenizers
from uer.training.inputs import Settings, open_data
from uer.training.new_model import new_model
from uer.training.pretrained import load_pretrained


def plan(settings: Settings) -> list[str]:
    """The lines of --dry_run, with the datasets where they exist, else with full rows of the model's longest length."""
    if all(map(os.path.exists, settings.train.dataset_path)):
        data = open_data(settings)
        rows = Rows(data.processor, data.vocab_size, mean_length(data.train, data.processor))
    else:
        vocab = build_tokenizers(settings.tokenizer, ["src"])["src"].vocab
        rows = assumed_rows(settings.model, settings.train.data_processor, len(vocab), vocab.special_ids)
    train, lines = settings.train, []
    with Unfilled():  # raises what the run would
        model = new_model(settings, rows.vocab_size, rows.processor, lambda side, entries: np.zeros(entries, np.int64),
                          tgt_vocab_size=rows.tgt_vocab_size)
    if train.pretrained_model_path:
        load_pretrained(model, settings, rows.vocab_size, lines.append)
    teacher = _teacher(settings, rows, lines)
    train = replace(train, total_steps=train.decay_steps or train.total_steps)
    if not train.decay_steps:
        SCHEDULES[settings.optim.scheduler](settings.optim, train.total_steps)
    lines += plan_lines(settings.model, train, settings.parallel, rows, teacher)
    if settings.lora.use_lora:
        lines.append("note: --use_lora needs less: all parameters count as trained here")
    return lines


def _teacher(settings: Settings, rows: Rows, lines: list[str]) -> ModelConfig | None:
    """The settings of the teacher, which is loaded as a run does; None without a teacher."""
    config, lengths = settings.distillation, rows.processor.batch_lengths()
    if not config.teacher_config_path:
        return None
    return teacher_model(config, settings.model.target, rows.vocab_size, lengths["src"], lines.append,
                         lengths.get("tgt", 0), tgt_vocab_size=rows.tgt_vocab_size).config
