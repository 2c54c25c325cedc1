"""The sizes of a model as a checkpoint's tensors tell them, compared with those of a configuration.

So that a forgotten --config_path is answered by the sizes that differ, before any tensor is copied.
"""

import os
import re
from collections.abc import Mapping

from torch import Tensor

from uer.config import ModelConfig, TrainConfig
from uer.errors import UserError

LAYERS = {"layers_num": re.compile(r"encoder\.transformer\.(\d+)\."),
          "decoder_layers_num": re.compile(r"decoder\.transformer_decoder\.(\d+)\.")}
# Sizes that --config_path decides: the name of the field, and how it is shown.
SHOWN = {"layers_num": "layers {}", "emb_size": "embeddings {}", "hidden_size": "hidden {}",
         "feedforward_size": "feed-forward {}", "decoder_layers_num": "decoder layers {}"}


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes by `ModelConfig`'s names, and `vocabulary`; only those that the tensors tell.

    >>> sizes_of({"embedding.word.embedding.weight": torch.empty(30, 16)})
    {'vocabulary': 30, 'emb_size': 16}
    """
    found = {}
    matrices = {name: value.shape for name, value in state.items() if value.dim() == 2}
    if "embedding.word.embedding.weight" in matrices:
        found["vocabulary"], found["emb_size"] = matrices["embedding.word.embedding.weight"]
    if "embedding.pos.embedding.weight" in matrices:
        found["max_seq_length"] = matrices["embedding.pos.embedding.weight"][0]
    for name, shape in matrices.items():
        if name.startswith("encoder.") and name.endswith("feed_forward.linear_1.weight"):
            found["feedforward_size"], found["hidden_size"] = shape
    for name, pattern in LAYERS.items():
        layers = {int(match[1]) for match in map(pattern.match, state) if match}
        if layers:
            found[name] = len(layers)
    return found


def check_sizes(state: Mapping[str, Tensor], config: ModelConfig, vocab_size: int, path: str | os.PathLike,
                config_path: str) -> None:
    """See that a checkpoint has the size of the model that it is loaded into.

    Args:
        state: the checkpoint's tensors.
        config, vocab_size: the model.
        path: the checkpoint, for the message.
        config_path: the file that the model's settings come from, for the message.

    Raises:
        UserError: layers, widths, vocabulary or positions differ.
    """
    check_widths(state, config, path, config_path)
    sizes = sizes_of(state)
    if sizes.get("vocabulary", vocab_size) != vocab_size:
        raise UserError(f"{path} has {sizes['vocabulary']} vocabulary entries, but --vocab_path has {vocab_size}: give "
                        "the vocabulary of this model (scripts/extend_vocab.py adds entries to both)")
    if "pos" in config.embedding and sizes.get("max_seq_length", config.max_seq_length) != config.max_seq_length:
        raise UserError(f"{path} has {sizes['max_seq_length']} positions, but max_seq_length is "
                        f"{config.max_seq_length}: give --max_seq_length {sizes['max_seq_length']}")


def check_widths(state: Mapping[str, Tensor], config: ModelConfig, path: str | os.PathLike, config_path: str,
                 flag: str = "--config_path") -> None:
    """See that a checkpoint has the layers and widths of the model that it is loaded into.

    Args:
        state, config, path, config_path: see `check_sizes`.
        flag: the flag that names the file, for the message.

    Raises:
        UserError: they differ.
    """
    sizes = sizes_of(state)
    if not config.decoder:
        sizes.pop("decoder_layers_num", None)
    wrong = [name for name in SHOWN if sizes.get(name, getattr(config, name)) != getattr(config, name)]
    if "hidden_size" in wrong:  # the others follow from it
        wrong = [name for name in wrong if name in ("layers_num", "hidden_size", "decoder_layers_num")]
    if wrong:
        theirs, ours = (", ".join(SHOWN[name].format(source[name]) for name in wrong)
                        for source in (sizes, vars(config)))
        usual = flag == "--config_path" and str(config_path).endswith(TrainConfig.config_path)
        default = " (--config_path's default)" if usual else ""
        raise UserError(f"{path} is a model of another size: {theirs}, but {ours} in {config_path}{default}: give the "
                        f"{flag} of this model")
