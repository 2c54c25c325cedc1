"""transformers' models on our rows, the other side of `benchmark_training.py`. Not a command.

It trains on what our trainer trains on: the same stored rows, the same size and batch, with scaled-dot-product
attention, autocast, the fused AdamW and, where asked, torch.compile. transformers is imported when a side is made.
"""

import importlib.util
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _transformers_models import new_model
from torch import Tensor

from uer.config import MaskingConfig, ModelConfig
from uer.data.batch import Batch
from uer.data.loader import Loader, open_processor
from uer.data.store import TokenDataset, open_dataset
from uer.runtime.precision import Precision

BATCHES = 16  # that a loop takes in turns
LEARNING_RATE = 1e-5
UNTIMED = 3  # updates at the beginning of each call of the Trainer
MOST_WORKERS = 8


class Lap(NamedTuple):
    """A measurement."""

    seconds: float
    """Of one update."""
    real_tokens: float
    """Of one update: those that are no padding."""


Side = Callable[[int], Lap]
"""Does this number of updates and returns when they are done."""


def why_no_trainer() -> str | None:
    """Why transformers' Trainer cannot run here; None where it can."""
    missing = [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def loop_side(model_config: ModelConfig, dataset: Path, vocab: Path, *, batch_size: int, device: torch.device,
              precision: str, compiled: bool, family: str = "bert") -> Side:
    """A plain loop around transformers' model of a family, on batches that were made beforehand.

    Padding up to the longest row is kept, but not up to the longest possible one: batches are trimmed, unless the model
    is compiled, which needs one shape.
    """
    data = open_dataset(dataset)
    model = new_model(family, model_config, data.info.vocab.size).to(device).train()
    if compiled:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    autocast = Precision(precision, device).autocast
    loader = Loader([data], open_processor([data], MaskingConfig()), batch_size=batch_size, trim=not compiled)
    made = [labelled(batch, device) for step in range(BATCHES) for batch in loader.step(step)]
    tokens, batches = float(sum(batch["attention_mask"].sum() for batch in made)) / len(made), itertools.cycle(made)

    def run(updates: int) -> Lap:
        begin = time.perf_counter()
        for _, batch in zip(range(updates), batches):
            optimizer.zero_grad(set_to_none=True)
            with autocast():
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Lap((time.perf_counter() - begin) / updates, tokens)

    return run


def labelled(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Our batch as transformers wants it: labels at every position, -100 where nothing is predicted.

    GPT2LMHeadModel compares the logits of a position with the label of the next one itself.
    """
    inputs = {"input_ids": batch.src.values.clone(), "attention_mask": (batch.src.seg > 0).long()}
    if "lm" in batch.labels:
        labels = batch.labels["lm"].values
        if batch.tgt is not None:
            inputs |= {"decoder_input_ids": batch.tgt.values.clone(),
                       "decoder_attention_mask": (batch.tgt.seg > 0).long(), "labels": labels.clone()}
        else:
            inputs["labels"] = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=-100)
        return {name: tensor.to(device) for name, tensor in inputs.items()}
    labels = torch.full_like(batch.src.values, -100)
    labels.scatter_(1, batch.labels["mlm"].positions, batch.labels["mlm"].values)
    return {name: tensor.to(device) for name, tensor in {**inputs, "labels": labels}.items()}


def trainer_side(model_config: ModelConfig, dataset: Path, vocab: Path, *, batch_size: int, device: torch.device,
                 precision: str, compiled: bool) -> Side:
    """transformers' Trainer, with worker processes that mask, and rows of like lengths in a batch.

    Each call is a `train()`, whose first `UNTIMED` updates are not timed. The weights and the compiled model are kept.
    """
    from transformers import Trainer

    data = open_dataset(dataset)
    rows = TokenRows(data)
    model = new_model("bert", model_config, data.info.vocab.size)
    collate = collator(vocab, pad_to=data.info.seq_length if compiled else None)

    class CountingTrainer(Trainer):
        """Adds up the real tokens on the device, so that the host need not wait."""

        def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
            clock.tokens = clock.tokens + inputs["attention_mask"].sum()
            return super().compute_loss(model, inputs, *args, **kwargs)

    clock = step_clock(device)

    def run(updates: int) -> Lap:
        clock.tokens = torch.zeros((), device=device)
        arguments = training_arguments(dataset.parent / "trainer", updates + UNTIMED, batch_size, device, precision,
                                       compiled)
        CountingTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate,
                        callbacks=[clock]).train()
        return Lap(clock.seconds / updates, float(clock.tokens) / updates)

    return run


class TokenRows(torch.utils.data.Dataset):
    """The stored rows as transformers' datasets give them."""

    def __init__(self, dataset: TokenDataset) -> None:
        self.offsets = [int(dataset.offsets["src"][number]) for number in range(len(dataset) + 1)]
        self.tokens = torch.from_numpy(dataset.columns["src"][:].astype("int64"))
        self.column_names = ["input_ids", "length"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.tokens[self.offsets[number]:self.offsets[number + 1]]
        return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def collator(vocab: Path, pad_to: int | None) -> Any:
    """transformers' own masking, 15% of a row's tokens.

    Args:
        pad_to: the length of all batches; that of a batch's longest row when None.
    """
    from transformers import BertTokenizer, DataCollatorForLanguageModeling

    tokenizer = BertTokenizer(str(vocab))
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, pad_to_multiple_of=pad_to)


def training_arguments(folder: Path, updates: int, batch_size: int, device: torch.device, precision: str,
                       compiled: bool) -> Any:
    """The fastest settings that the Trainer has for this."""
    from transformers import TrainingArguments

    fields = TrainingArguments.__dataclass_fields__
    grouped = ({"train_sampling_strategy": "group_by_length"} if "train_sampling_strategy" in fields
               else {"group_by_length": True})
    on_gpu = device.type == "cuda"
    return TrainingArguments(
        output_dir=str(folder), max_steps=updates, per_device_train_batch_size=batch_size, learning_rate=LEARNING_RATE,
        optim="adamw_torch_fused", bf16=precision == "bf16", fp16=precision == "fp16", torch_compile=compiled,
        use_cpu=not on_gpu, dataloader_num_workers=min(MOST_WORKERS, os.cpu_count() or 1) if on_gpu else 0,
        dataloader_pin_memory=on_gpu, dataloader_persistent_workers=on_gpu, report_to="none", disable_tqdm=True,
        save_strategy="no", logging_strategy="no", max_grad_norm=0.0, **grouped)


def step_clock(device: torch.device) -> Any:
    """A callback that times a `train()` from its update `UNTIMED` on; `tokens` begins anew there."""
    from transformers import TrainerCallback

    class StepClock(TrainerCallback):
        seconds, tokens, begin = 0.0, torch.zeros(()), 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step not in (UNTIMED, state.max_steps):
                return
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if state.global_step == UNTIMED:
                self.begin, self.tokens = time.perf_counter(), torch.zeros((), device=device)
            else:
                self.seconds = time.perf_counter() - self.begin

    return StepClock()
