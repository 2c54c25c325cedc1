"""scripts/benchmark_generation.py: both sides generate with the same weights."""

import json

import pytest


def test_both_sides_write_the_same_texts(run_script):
    pytest.importorskip("transformers")
    printed = run_script("benchmark_generation.py", "--sizes", "tiny", "--methods", "greedy", "beam", "--batch_sizes",
                         2, "--prompt_length", 5, "--new_tokens", 6, "--rounds", 1)
    records = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [(record["family"], record["method"]) for record in records] == [
        ("gpt2", "greedy"), ("gpt2", "beam"), ("t5", "greedy"), ("t5", "beam")]
    assert all(record["equal"] == 1.0 and record["ratio"] > 0.0 for record in records)
