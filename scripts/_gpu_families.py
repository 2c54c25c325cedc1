"""Small models of every family, for `check_gpu.py` and benchmarks: corpus, dataset and settings. Not a command."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from _random_run import ROOT

CHARACTERS = [chr(0x4E00 + number) for number in range(2000)]
SMALL = {"emb_size": 128, "hidden_size": 128, "feedforward_size": 512, "heads_num": 2, "layers_num": 2, "dropout": 0.0}
WITH_DECODER = {"decoder_layers_num": 2}
SIZES = {  # of benchmarks
    "tiny": {**SMALL, **WITH_DECODER, "dropout": 0.1, "max_seq_length": 512},
    "mini": {"emb_size": 256, "hidden_size": 256, "feedforward_size": 1024, "heads_num": 4, "layers_num": 4,
             "decoder_layers_num": 4, "dropout": 0.1, "max_seq_length": 512},
}


@dataclass(frozen=True)
class Family:
    """How a small model of a family is pretrained.

    Attributes:
        processor: of preprocess.py.
        config: the file under models/ whose settings it has, but for its size.
        settings: further settings.
        preprocess: flags of preprocess.py.
        pretrain: flags of pretrain.py.
    """

    processor: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    preprocess: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()


FAMILIES = {
    "modernbert": Family("mlm", "modernbert/tiny_config.json",
                         {"layers_num": 3, "feedforward_size": 352, "attention_window": 32},
                         ("--dynamic_masking", "--full_sentences"), ("--document_attention",)),
    "llama": Family("lm", "llama2/tiny_config.json", {"heads_num": 4, "feedforward_size": 344}),
    "bloom": Family("lm", "bloom/tiny_config.json"),
    "gpt2": Family("lm", "gpt2/config.json", {"max_seq_length": 128}),
    "t5": Family("t5", "t5/small_config.json", WITH_DECODER, ("--dynamic_masking",)),
    "bart": Family("bart", "bart/base_config.json", {**WITH_DECODER, "emb_size": 128}, ("--dynamic_masking",)),
    "pegasus": Family("gsg", "pegasus/base_config.json", WITH_DECODER, ("--tgt_seq_length", "48")),
    "bert": Family("bert", "bert/base_config.json", {}, ("--dynamic_masking",)),
    "albert": Family("albert", "albert/base_config.json", {}, ("--dynamic_masking",)),
    "sampled softmax": Family("mlm", "bert/tiny_config.json", {"target": ["mlm"]}, ("--dynamic_masking",),
                              ("--sampled_softmax", "512", "--output_bias_init", "frequencies")),
    "lstm": Family("lm", "rnn/lstm_config.json"),
    "gatedcnn": Family("lm", "cnn/gatedcnn_9_config.json"),
}


def settings(name: str, size: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The settings of a family's model: those of a small one, but for what `size` says."""
    family = FAMILIES[name]
    return {**json.loads((ROOT / "models" / family.config).read_text()), **SMALL, **family.settings, **size}


def prepare(name: str, folder: Path, rows: int, seq_length: int, characters: Sequence[str] = CHARACTERS,
            model: Mapping[str, Any] | None = None) -> list[str]:
    """Write a corpus, a vocabulary, the settings and the dataset; returns the flags of pretrain.py.

    Args:
        rows: documents of the corpus, each about as long as a row.
        characters: the vocabulary, without its special tokens.
        model: what `settings` returns; that of a small model when None.
    """
    family = FAMILIES[name]
    vocab, corpus, config, dataset = (folder / file for file in ("vocab.txt", "corpus.txt", "config.json", "data.pt"))
    sentinels = [f"<extra_id_{number}>" for number in range(100)]
    vocab.write_text("".join(f"{token}\n" for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters,
                                                       *sentinels]), encoding="utf-8")
    sentences = family.processor in ("bert", "albert", "gsg", "bart")
    corpus.write_text(documents(rows, seq_length, sentences, characters), encoding="utf-8")
    config.write_text(json.dumps(settings(name) if model is None else model))
    subprocess.run([sys.executable, str(ROOT / "preprocess.py"), "--corpus_path", str(corpus), "--vocab_path",
                    str(vocab), "--tokenizer", "char", "--dataset_path", str(dataset), "--seq_length", str(seq_length),
                    "--processes_num", "4", "--data_processor", family.processor, *family.preprocess], check=True,
                   cwd=ROOT, stdout=subprocess.DEVNULL)
    return ["--dataset_path", str(dataset), "--vocab_path", str(vocab), "--tokenizer", "char", "--config_path",
            str(config), "--output_model_path", str(folder / "model"), "--total_steps", "1000000", "--learning_rate",
            "3e-4", "--warmup", "0", "--scheduler", "constant", "--log_level", "ERROR", *family.pretrain]


def documents(count: int, longest: int, sentences: bool, characters: Sequence[str] = CHARACTERS) -> str:
    """Documents in which a character often follows the one before it in the alphabet: a line each, or, with
    `sentences`, a sentence a line and a blank line after each document."""
    draw = random.Random(5)
    written = []
    for _ in range(count):
        position, text = draw.randrange(len(characters)), []
        for _ in range(draw.randrange(longest // 2, longest)):
            position = position + 1 if draw.random() < 0.7 else int(len(characters) * draw.random() ** 3)
            text.append(characters[position % len(characters)])
        size = 12 if sentences else longest
        written += ["".join(text[begin:begin + size]) + "\n" for begin in range(0, len(text), size)]
        written += ["\n"] * sentences
    return "".join(written)
