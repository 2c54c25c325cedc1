"""Prints hashes of short MLM pretraining runs, to show that a change leaves results the same to the last bit.

    python3 tests/tools/freeze_mlm.py                   this checkout
    python3 tests/tools/freeze_mlm.py ../other          another checkout, for instance of an older commit

Compare the output of two checkouts on one machine: the bits depend on torch's version and on the processor. Every case
preprocesses a made-up corpus and trains 20 updates from random weights, on the CPU in fp32 with one thread.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, safe_open

CHARACTERS = [chr(0x4E00 + number) for number in range(200)]
MODEL = {"emb_size": 32, "hidden_size": 32, "feedforward_size": 64, "heads_num": 4, "layers_num": 2, "dropout": 0.1,
         "max_seq_length": 64, "hidden_act": "gelu", "embedding": ["word", "pos", "seg"], "tie_weights": True,
         "target": ["mlm"]}
# name -> flags of preprocess.py, flags of pretrain.py
CASES: dict[str, tuple[str, str]] = {
    "dynamic masks": ("--dynamic_masking", ""),
    "static spans, twice": ("--dup_factor 2 --span_masking --seed 11", "--scheduler cosine --max_grad_norm 1.0"),
    "whole words, full sentences": ("--dynamic_masking --full_sentences --whole_word_masking",
                                    "--whole_word_masking --document_attention --accumulation_steps 2"),
    "two ranks": ("--dynamic_masking", "--world_size 2 --gpu_ranks 0 1 --dev_fraction 0.1 --eval_steps 10")}


def write_inputs(folder: Path) -> None:
    """A corpus of 400 lines in which characters follow one another, its vocabulary and a small model's settings."""
    draw = random.Random(5)
    lines = []
    for _ in range(400):
        first, length = draw.randrange(len(CHARACTERS)), draw.randint(3, 150)
        line = [CHARACTERS[(first + place * draw.choice((1, 1, 1, 3))) % len(CHARACTERS)] for place in range(length)]
        lines.append("".join(line))
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS[:-5]]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(MODEL))


def run(root: Path, folder: Path, script: str, flags: str) -> None:
    """Run a command of the checkout in the folder; its output is shown where it fails."""
    done = subprocess.run([sys.executable, str(root / script), "--vocab_path", "vocab.txt", *flags.split()], cwd=folder,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script} {flags}\n{done.stdout}{done.stderr}")


def weights_hash(path: Path) -> str:
    """Of names, shapes, types and bytes of all tensors: how the file stores them does not matter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(torch.load(path, weights_only=True).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def dataset_hash(path: Path) -> str:
    """Of the tokens, of where instances begin (int64), and of the word starts where there are any.

    The same for files of format version 1 and 2, which name the column of the tokens `tokens` and `src`.
    """
    columns = load_file(path)
    with safe_open(path, "np") as file:
        shift = json.loads(file.metadata()["offsets_shift"])
    names = ("src", "src.starts", "src.block_starts")
    if "src" not in columns:
        names = ("tokens", "starts", "block_starts")
    tokens, starts, blocks = (columns[name] for name in names)
    offsets = blocks[np.arange(len(starts)) >> (shift if isinstance(shift, int) else shift["src"])] + starts
    digest = hashlib.sha256()
    for name, column in (("tokens", tokens), ("offsets", offsets), ("word_start", columns.get("word_start"))):
        if column is not None:
            digest.update(f"{name} {column.dtype} {len(column)}".encode())
            digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def losses(path: Path) -> list[tuple[str, int, float, float]]:
    """(kind, step, loss, accuracy) of every line of `--metrics_path`."""
    return [(line["kind"], line["step"], line["loss"], line["acc"]) for line in
            map(json.loads, path.read_text().splitlines())]


def freeze(root: Path, folder: Path, number: int, preprocessing: str, training: str) -> str:
    """The hashes of one case."""
    dataset, metrics = f"{number}.pt", folder / f"{number}.jsonl"
    run(root, folder, "preprocess.py", f"--corpus_path corpus.txt --dataset_path {dataset} --seq_length 48 "
                                       f"--data_processor mlm --processes_num 1 {preprocessing}")
    run(root, folder, "pretrain.py", f"--dataset_path {dataset} --config_path config.json --output_model_path {number} "
        "--data_processor mlm --target mlm --batch_size 8 --total_steps 20 --save_checkpoint_steps 20 --report_steps 1 "
        f"--learning_rate 1e-3 --device cpu --precision fp32 --metrics_path {metrics.name} {training}")
    curve = hashlib.sha256(repr(losses(metrics)).encode()).hexdigest()[:16]
    return f"dataset {dataset_hash(folder / dataset)}  losses {curve}  weights {weights_hash(folder / f'{number}-20')}"


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
    if not (root / "pretrain.py").is_file():
        sys.exit(f"{root}: no pretrain.py there; the folder of a checkout is needed")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        for number, (case, flags) in enumerate(CASES.items()):
            print(f"{case:28} {freeze(root, folder, number, *flags)}", flush=True)


if __name__ == "__main__":
    main()
