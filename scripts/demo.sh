#!/usr/bin/env bash
# The whole path on a fresh machine: set-up, vocabulary, corpus, dataset, pretraining in two stages, conversion, answers,
# and fine-tuning beside a random start.
#
#   bash scripts/demo.sh [FOLDER]      everything but the corpus and the vocabulary goes to FOLDER (default: demo in
#                                      the repository)
#
# A tiny model learns some facts from generated text: which city is the capital of which country, among others.
set -euo pipefail
out=${1:-}
case $out in "" | /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")/.."
. scripts/setup_env.sh requirements.txt
out=${out:-demo}
vocab=models/google_zh_vocab.txt
config=models/bert/tiny_config.json
mkdir -p "$out"
rm -rf "$out"/tiny_seq* "$out/scoreboard"  # an earlier demo's models

step() { printf '\n== %s\n' "$1"; }

step "vocabulary"
"$PYTHON" scripts/fetch_vocab.py --output_path "$vocab"

step "corpus"
"$PYTHON" corpora/make_demo_corpus.py

for length in 128 512; do
    step "datasets of length $length"
    for part in corpus heldout; do
        "$PYTHON" preprocess.py --corpus_path "corpora/demo_$part.txt" --vocab_path "$vocab" \
            --dataset_path "$out/${part}_seq$length.pt" --processes_num 2 --seq_length "$length" \
            --dynamic_masking --data_processor mlm
    done
done

step "pretraining, stage 1: length 128"
"$PYTHON" pretrain.py --dataset_path "$out/corpus_seq128.pt" --dev_dataset_path "$out/heldout_seq128.pt" \
    --vocab_path "$vocab" --config_path "$config" --output_model_path "$out/tiny_seq128_model.bin" \
    --total_steps 1200 --save_checkpoint_steps 600 --report_steps 100 --learning_rate 1e-3 --batch_size 32 \
    --max_grad_norm 1 --dropout 0 --data_processor mlm --target mlm

step "pretraining, stage 2: length 512"
"$PYTHON" pretrain.py --dataset_path "$out/corpus_seq512.pt" --dev_dataset_path "$out/heldout_seq512.pt" \
    --vocab_path "$vocab" --config_path "$config" --output_model_path "$out/tiny_seq512_model.bin" \
    --pretrained_model_path "$out/tiny_seq128_model.bin-1200" \
    --total_steps 200 --save_checkpoint_steps 200 --report_steps 50 --learning_rate 5e-4 --batch_size 32 \
    --max_grad_norm 1 --dropout 0 --data_processor mlm --target mlm

step "conversion to Hugging Face"
"$PYTHON" scripts/convert_bert_from_uer_to_huggingface.py --input_model_path "$out/tiny_seq512_model.bin-200" \
    --output_model_path "$out/pytorch_model.bin" --output_dir "$out/huggingface" --layers_num 2 --type mlm

step "answers"
"$PYTHON" - "$out/huggingface" <<'ANSWERS'
import sys

from transformers import pipeline
from transformers.utils import logging

logging.disable_progress_bar()
fill = pipeline("fill-mask", model=sys.argv[1], device="cpu")
for text in ("中国的首都是[MASK]京。", "江苏省的省会是[MASK]京。", "日本的首都是[MASK]京。", "法国的首都是巴[MASK]。",
             "小猫喜欢吃[MASK]。", "夏[MASK]天气炎热。"):
    answers = "  ".join(f"{answer['token_str']} {answer['score']:.3f}" for answer in fill(text, top_k=5))
    print(f"{text}  {answers}")
ANSWERS

step "fine-tuning: praise or blame, by words that its training rows do not have"
cat > "$out/scoreboard.json" <<LIST
{"tasks": {"praise": {"train_path": "corpora/demo_task/train.tsv", "dev_path": "corpora/demo_task/dev.tsv",
                      "test_path": "corpora/demo_task/test.tsv"}},
 "grid": {"batch_size_list": [32], "learning_rate_list": [3e-4], "epochs_num_list": [5]},
 "seeds": [7, 8], "flags": {"seq_length": 64},
 "models": [{"name": "pretrained", "config_path": "$config", "vocab_path": "$vocab",
             "pretrained_model_path": "$out/tiny_seq512_model.bin-200"},
            {"name": "random start", "config_path": "$config", "vocab_path": "$vocab"}]}
LIST
"$PYTHON" scripts/scoreboard.py --scoreboard_path "$out/scoreboard.json" --output_dir "$out/scoreboard" --chart false
