"""Speed of text generation, compared with transformers' `generate` with the same weights: alternately in one process.

    python3 scripts/benchmark_generation.py
    python3 scripts/benchmark_generation.py --families gpt2 --sizes mini --batch_sizes 1 --methods greedy

Both sides go on from the same prompts of random tokens with a cache of keys and values, by the same number of tokens,
which no token ends early. The weights are random. Methods: greedy; sample, from the 70 likeliest tokens; beam, a search
with 4 beams. `ratio` is that of the medians of the tokens a second; `equal` is the part of the texts that both sides
agree on (drawn ones have no reason to). Prints a table, then one JSON line for each result.
"""

import dataclasses
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from _gpu_families import SIZES, settings
from _ranges import outside
from _transformers_models import copy_weights, new_model
from torch import nn

from uer import cli
from uer.config import flag
from uer.generation import GREEDY, GenerationConfig, generate
from uer.model import Model, build_model
from uer.model_settings import model_settings

VOCAB_SIZE = 21128  # as Google's Chinese BERT
FIRST_WORD, START = 104, 101
WEIGHT_STD = 0.05  # wide enough that a text does not repeat one token
METHODS: dict[str, tuple[GenerationConfig, dict[str, Any]]] = {
    "greedy": (GREEDY, {"do_sample": False}),
    "sample": (GenerationConfig(top_k=70), {"do_sample": True, "top_k": 70}),
    "beam": (GenerationConfig(beam_size=4), {"do_sample": False, "num_beams": 4}),
}


@dataclass(frozen=True)
class BenchmarkConfig:
    """The models, and the number of measurements."""

    families: tuple[str, ...] = flag(("gpt2", "t5"), "Families of models.", choices=("gpt2", "t5"))
    sizes: tuple[str, ...] = flag(("tiny", "mini"), "tiny: 2 layers of 128 features; mini: 4 of 256.",
                                  choices=tuple(SIZES))
    methods: tuple[str, ...] = flag(tuple(METHODS), "How tokens are chosen.", choices=tuple(METHODS))
    batch_sizes: tuple[int, ...] = flag((1, 16), "Numbers of prompts.")
    prompt_length: int = flag(16, "Tokens of a prompt.")
    new_tokens: int = flag(64, "Tokens that are generated for each prompt.")
    threads: int = flag(1, "Threads of both sides.")
    rounds: int = flag(5, "Number of measurements of each side.")

    def problems(self) -> list[str]:
        return outside(self, batch_sizes=(1, 4096), prompt_length=(1, 256), new_tokens=(1, 255), threads=(1, 4096),
                       rounds=(1, 1000))


def main() -> None:
    """Time every combination."""
    config, = cli.parse(__doc__, (BenchmarkConfig,))
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(config.threads)
    print(f"{platform.processor() or platform.machine()}, {config.threads} threads, Python "
          f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}; "
          f"prompts of {config.prompt_length} tokens, {config.new_tokens} new ones, {config.rounds} rounds, medians\n")
    print(f"{'model':<10}{'method':>8}{'prompts':>9}{'ours':>14}{'transformers':>16}{'ratio':>8}{'equal':>8}")
    records = []
    for family, size in itertools.product(config.families, config.sizes):
        ours, theirs = both_models(family, size)
        for method, prompts in itertools.product(config.methods, config.batch_sizes):
            record = {"family": family, "size": size, **compare(ours, theirs, method, prompts, config)}
            print("{model:<10}{method:>8}{prompts:>9}{tokens_per_second:>8,.0f} tok/s"
                  "{transformers_tokens_per_second:>10,.0f} tok/s{ratio:>8.2f}{equal:>8.0%}".format(
                      model=f"{family} {size}", **record), flush=True)
            records.append(record)
    print()
    for record in records:
        print(json.dumps(record))


def both_models(family: str, size: str) -> tuple[Model, Any]:
    """Our model and transformers' with the same weights, both in evaluation mode."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(settings(family, SIZES[size])))
        config = dataclasses.replace(model_settings(path), dropout=0.0)
    torch.manual_seed(1)
    ours = build_model(config, VOCAB_SIZE).eval()
    for parameter in ours.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=WEIGHT_STD)
    theirs = new_model(family, config, VOCAB_SIZE).eval()
    copy_weights(family, ours, theirs)
    return ours, theirs


def compare(ours: Model, theirs: Any, method: str, prompts: int, config: BenchmarkConfig) -> dict[str, Any]:
    """Time both sides alternately, after one call of each."""
    texts = torch.randint(FIRST_WORD, VOCAB_SIZE, (prompts, config.prompt_length),
                          generator=torch.Generator().manual_seed(2))
    sides = {"ours": our_side(ours, texts, method, config), "theirs": their_side(theirs, texts, method, config)}
    found = {name: side() for name, side in sides.items()}
    assert all(len(text) == config.new_tokens for side in found.values() for text in side)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(config.rounds):
        for name, side in sides.items():
            begin = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - begin)
    rates = {name: prompts * config.new_tokens / statistics.median(values) for name, values in seconds.items()}
    equal = sum(a == b for a, b in zip(found["ours"], found["theirs"], strict=True)) / prompts
    return {"method": method, "prompts": prompts, "prompt_length": config.prompt_length,
            "new_tokens": config.new_tokens, "threads": config.threads, "tokens_per_second": rates["ours"],
            "transformers_tokens_per_second": rates["theirs"], "ratio": rates["ours"] / rates["theirs"], "equal": equal}


def our_side(model: Model, texts: torch.Tensor, method: str, config: BenchmarkConfig) -> Callable[[], list[list[int]]]:
    """Generates for prompts (B, P)."""
    rows = texts.tolist()
    return lambda: generate(model, rows, most=config.new_tokens, start_id=START, config=METHODS[method][0])


def their_side(model: Any, texts: torch.Tensor, method: str,
               config: BenchmarkConfig) -> Callable[[], list[list[int]]]:
    """The same by transformers."""
    chosen = {**METHODS[method][1], "max_new_tokens": config.new_tokens, "eos_token_id": None, "pad_token_id": 0}
    if model.config.is_encoder_decoder:
        chosen["decoder_start_token_id"] = START
    mask = torch.ones_like(texts)
    return lambda: model.generate(texts, attention_mask=mask, **chosen)[:, -config.new_tokens:].tolist()


if __name__ == "__main__":
    cli.run(main)
