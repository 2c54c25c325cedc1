"""What the output layer takes from the data: a softmax over a sample (--sampled_softmax), a bias at the frequencies."""

import pytest
import torch

from uer.data.store import open_dataset
from uer.data.token_counts import token_counts

ONE = {"total_steps": 1, "save_checkpoint_steps": 1, "report_steps": 1, "learning_rate": 1e-12}
SAMPLED = {"sampled_softmax": 16, "output_bias_init": "frequencies", "position_init": "sinusoidal"}


def test_a_new_model_predicts_the_frequencies(shared_playground):
    shared_playground.run("frequencies", **ONE, output_bias_init="frequencies", position_init="sinusoidal",
                          initializer_range=0.05)
    weights = shared_playground.weights("frequencies-1")
    bias = weights["target.mlm.linear_2.bias"]
    counts = token_counts([open_dataset(shared_playground.folder / "data.pt")], "src", len(bias)).clip(min=1)
    torch.testing.assert_close(bias, torch.from_numpy(counts / counts.sum()).log().float())
    positions = weights["embedding.pos.embedding.weight"]
    assert positions.square().mean().sqrt() == pytest.approx(0.05, rel=1e-5)
    assert positions[0, 0::2].abs().max() < 1e-6  # sin 0
    again = shared_playground.run("again", **ONE, output_bias_init="frequencies",
                                  pretrained_model_path=shared_playground.folder / "frequencies-1")
    assert "warning: --output_bias_init: without effect" in again.output


def test_a_run_with_a_sampled_softmax_goes_on_to_the_same_bits(shared_playground):
    flags = {**SAMPLED, "total_steps": 6, "save_checkpoint_steps": 3, "dev_fraction": 0.2}
    shared_playground.run("whole", **flags)
    shared_playground.run("parts", **flags)
    for path in ("parts-6", "parts.state-6"):
        (shared_playground.folder / path).unlink()
    shared_playground.run("parts", **flags)
    whole, parts = (shared_playground.weights(f"{name}-6") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert "sampled_softmax was 16 and is now 0" in shared_playground.fail("parts", **{**flags, "sampled_softmax": 0})


def test_a_sampled_softmax_without_frequencies_is_noted(shared_playground):
    note = "learns much sooner with --output_bias_init frequencies"
    assert note in shared_playground.run("zeros", **ONE, sampled_softmax=16).output
    assert note not in shared_playground.run("known", **ONE, sampled_softmax=16,
                                             output_bias_init="frequencies").output


@pytest.mark.parametrize("flags, message", [
    ({"sampled_softmax": 1_000_000}, "the vocabulary has only"),
    ({"sampled_softmax": 3}, "must be 0 or at least 16"),
    ({"sampled_softmax": 16, "tensor_parallel_size": 2, "world_size": 2}, "chooses among all entries"),
    ({"position_init": "sinusoidal", "embedding": "word"}, "no learned position embeddings"),
    ({"scheduler": "tri_stage", "warmup": 0.9}, "must not exceed 1"),
])
def test_what_does_not_fit_is_refused(shared_playground, flags, message):
    assert message in shared_playground.fail("refused", **ONE, **flags)
    assert message in shared_playground.fail("refused", **ONE, **flags, dry_run=True)
