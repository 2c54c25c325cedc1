"""Inputs of commands, good and bad, the commands that read them, and `run` for a command in the process of a test."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import runpy
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

from uer import cli
from uer.checkpoint.files import save_weights
from uer.config import ModelConfig
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, save_dataset
from uer.model import build_model
from uer.tokenizers import Vocab

ROOT = Path(__file__).resolve().parent.parent.parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TINY = {"emb_size": 8, "hidden_size": 8, "feedforward_size": 16, "heads_num": 2, "layers_num": 1, "max_seq_length": 16,
        "embedding": ["word", "pos", "seg"], "tie_weights": True, "target": ["mlm"]}
STREAM = {**TINY, "encoder": "transformer"}
MASKING = {"whole_word_masking": False, "span_masking": False, "span_geo_prob": 0.2, "span_max_length": 10}
SQUAD_FILE = {"data": [{"paragraphs": [{"context": "一丁七万丈三", "qas": [
    {"id": "1", "question": "一丁", "answers": [{"text": "七", "answer_start": 2}]}]}]}]}
BOARD = {"tasks": {"a": {"train_path": "train.tsv", "dev_path": "train.tsv"}}, "grid": {"epochs_num_list": ["x"]},
         "models": [{"name": "m", "config_path": "c.json", "vocab_path": "vocab.txt"}]}
WORD = "embedding.word.embedding.weight"


def write_inputs(folder: Path) -> Path:
    """Write a vocabulary, a dataset, settings, texts and checkpoints into a folder, good and bad ones."""
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + [chr(0x4E00 + n) for n in range(20)]) + "\n")
    (folder / "text.txt").write_text("一丁七\n万丈三\n", encoding="utf-8")
    (folder / "train.tsv").write_text("label\ttext_a\n" + "0\t一丁\n1\t七万\n" * 4, encoding="utf-8")
    vocab = Vocab.load(folder / "vocab.txt")
    write_dataset(folder / "d.pt", vocab)
    write_dataset(folder / "no_specials.pt", vocab, {})
    for name, length in (("lengths", b"7"), ("long", b"99999999")):
        content = (folder / "d.pt").read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = content[8:8 + size].replace(b'"seq_length": "8"', b'"seq_length": "%s"' % length)
        (folder / f"{name}.pt").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size:])
    write_dataset(folder / "bad_specials.pt", vocab, {**vocab.special_ids, "mask": 25})
    write_settings(folder)
    write_checkpoints(folder, len(vocab))
    os.mkfifo(folder / "fifo")
    (folder / "empty.txt").touch()
    (folder / "binary").write_bytes(bytes(range(256)))
    header = b"[" * 100_000
    (folder / "deep.pt").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "user.txt").write_text("一丁 3\n", encoding="utf-8")
    (folder / "squad.json").write_text(json.dumps(SQUAD_FILE), encoding="utf-8")
    (folder / "board.json").write_text(json.dumps(BOARD))
    (folder / "deep.jsonl").write_text("[" * 100_000 + "\n{}\n")
    hf = folder / "hf_deep"
    hf.mkdir()
    (hf / "config.json").write_text("[" * 100_000)
    torch.save({"a": torch.ones(1)}, hf / "pytorch_model.bin")
    (folder / "x.index.json").write_text(json.dumps({"weight_map": {"a": "x.index.json"}}))
    shared = folder / "shared_roles"
    shared.mkdir()
    (shared / "vocab.txt").write_text((folder / "vocab.txt").read_text())
    (shared / "special_tokens_map.json").write_text('{"pad_token": "[UNK]"}')
    deep = folder / "deep_roles"
    deep.mkdir()
    (deep / "vocab.txt").write_text((folder / "vocab.txt").read_text())
    (deep / "special_tokens_map.json").write_text("[" * 100_000)
    return folder


def write_dataset(path: Path, vocab: Vocab, special_ids: dict[str, int] | None = None) -> None:
    offsets = np.arange(0, 41, 5)
    tokens = np.tile([vocab.cls_id, 5, 6, 7, vocab.sep_id], 8)
    known = VocabInfo(vocab.fingerprint, len(vocab), vocab.special_ids if special_ids is None else special_ids,
                      {"kind": "char", "do_lower_case": "false"})
    info = DatasetInfo(FORMAT_VERSION, "mlm", 8, {"src": Column()}, {"src": 8}, {"src": known}, MASKING, True)
    save_dataset(path, info, {"src": tokens}, {"src": offsets})


def write_settings(folder: Path) -> None:
    for name, changes in (("c", {}), ("layers", {"layers_num": 10**8}), ("overflow", {"feedforward_size": 2**63 - 1}),
                          ("positions", {"max_seq_length": 2**40}), ("dict", {"embedding": {"word": 1}}),
                          ("decoder", {"decoder": "transformer"}), ("dual", {"embedding": "dual"}),
                          ("pairs", {"embedding": "dual", "encoder": "dual", "stream_0": STREAM, "stream_1": STREAM})):
        (folder / f"{name}.json").write_text(json.dumps({**TINY, **changes}))
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "half.json").write_text('{\n"mask": "\\ud800"}')


def write_checkpoints(folder: Path, vocab_size: int) -> None:
    config = ModelConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in TINY.items()})
    weights = build_model(config, vocab_size).state_dict()
    save_weights(weights, folder / "good.bin")
    odd = {"sparse": torch.eye(vocab_size).to_sparse(), "meta": torch.empty(3, device="meta"),
           "huge": torch.zeros(1).expand(10**7, 10**6), "int": torch.ones(vocab_size, 8, dtype=torch.int64),
           "complex": torch.ones(vocab_size, 8, dtype=torch.complex64)}
    nan = weights[WORD].clone()
    nan[3, 1] = float("nan")
    odd["nan"] = nan
    for name, tensor in odd.items():
        torch.save({**weights, WORD: tensor}, folder / f"{name}.bin")
    save_weights(weights, folder / "m-2")
    torch.save({**weights, "encoder.transformer.99999999.layer_norm_1.gamma": torch.ones(8)}, folder / "layers.bin")
    with zipfile.ZipFile(folder / "bomb.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(20_000_000))


@dataclasses.dataclass
class Done:
    status: int
    out: str
    err: str


def run(script: str, *argv: object) -> Done:
    """A script in this process, as the command line runs it."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    before, environment = (sys.argv, list(sys.path)), dict(os.environ)
    sys.argv, sys.path = [script, *map(str, argv)], [str((ROOT / script).parent), *sys.path]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main = runpy.run_path(str(ROOT / script), run_name="script")["main"]
            cli.run(main)
    except SystemExit as leaving:
        status = leaving.code or 0
    finally:
        sys.argv, sys.path = before
        os.environ.clear()
        os.environ.update(environment)  # benchmarks set threads for themselves
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return Done(status, *texts)


PRETRAIN = ("pretrain.py --dataset_path d.pt --vocab_path vocab.txt --tokenizer char --config_path c.json "
            "--data_processor mlm --target mlm --total_steps 2 --batch_size 2 --output_model_path out/m")
FINETUNE = ("finetune/run_classifier.py --vocab_path vocab.txt --tokenizer char --config_path c.json --train_path "
            "train.tsv --dev_path train.tsv --seq_length 8 --epochs_num 1 --output_model_path out/f.bin")
AVERAGE = "scripts/average_models.py --output_model_path out/a --model_list_path"
CONVERT = ("scripts/convert_bert_from_uer_to_huggingface.py --type mlm --no_check --config_path c.json "
           "--output_model_path out/h --input_model_path")
EMBED = "scripts/extract_embeddings.py --vocab_path vocab.txt --word_embedding_path out/e.txt --load_model_path"
FEATURES = ("scripts/extract_features.py --vocab_path vocab.txt --tokenizer char --config_path c.json --test_path "
            "text.txt --prediction_path out/p.npy --load_model_path")
CLOZE = ("scripts/cloze_test.py --vocab_path vocab.txt --tokenizer char --config_path c.json --text 一[MASK] "
         "--load_model_path")
FAMILY = "scripts/pretrain_family.py --dry_run --vocab_path vocab.txt"
BACK = ("scripts/convert_bert_from_huggingface_to_uer.py --type mlm --no_check --output_model_path out/u "
        "--input_model_path")
PREPROCESS = "preprocess.py --corpus_path text.txt --data_processor mlm --tokenizer char --dataset_path out/d.pt"

SQUAD = FINETUNE.replace("run_classifier", "run_cmrc").replace("train.tsv", "squad.json")
