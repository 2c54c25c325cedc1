"""The model of a new run, with random weights: a run builds it, and `--dry_run` builds it without memory."""

from typing import Any

from uer.data.processors import Processor
from uer.model import Model, build_model, require_sides, start_sinusoidal
from uer.output_layer import Counts, sample_softmax, start_at_frequencies
from uer.planning.flops import example_batch
from uer.training.inputs import Settings


def new_model(settings: Settings, vocab_size: int, processor: Processor, counts: Counts, **layout: Any) -> Model:
    """The model with random weights, as the flags of new weights want them.

    Args:
        vocab_size, layout: see `build_model`.
        processor: makes the batches.
        counts: how frequent the tokens are in the training data.

    Raises:
        UserError: the settings exclude one another, or the model does not fit the batches.
    """
    config = settings.train
    model = build_model(settings.model, vocab_size, **layout, deep_init=config.deep_init,
                        activation_checkpointing=settings.parallel.activation_checkpointing,
                        initializer_range=config.initializer_range)
    if config.position_init == "sinusoidal":
        start_sinusoidal(model, config.initializer_range)
    if config.output_bias_init == "frequencies":
        start_at_frequencies(model, counts)
    if config.sampled_softmax:
        sample_softmax(model, config.sampled_softmax, counts)
    sides = example_batch(processor, rows=1).labels
    require_sides(model, {name: labels.side for name, labels in sides.items()})
    return model
