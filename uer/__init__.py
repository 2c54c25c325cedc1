"""A toolkit for pretraining text encoders with UER-py's command line, and for using the models from Python.

    import uer

    model = uer.load("models/tiny.bin-1000", vocab_path="models/google_zh_vocab.txt")
    vectors = model.encode(["北京是中国的首都。"], pooling="mean")

The import name is UER-py's own: the two packages cannot be installed side by side.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uer.api.text_model import TextModel

__version__ = "0.1.0"


def load(path: "str | os.PathLike", device: str = "auto", *, config_path: "str | os.PathLike | None" = None,
         vocab_path: "str | os.PathLike | None" = None, tokenizer: str = "bert", do_lower_case: bool | None = None,
         precision: str = "fp32") -> "TextModel":
    """Open a model for use.

    Args:
        path: a checkpoint of pretrain.py or of UER-py, a fine-tuned model (its weights file, or its folder), or a
            Hugging Face folder or weights file.
        device: "cpu", "cuda", "cuda:1", ...; "auto" is CUDA where there is one.
        config_path: JSON file of the model's settings, for a checkpoint whose settings are not known; shipped ones are
            found from any folder.
        vocab_path: the vocabulary of a checkpoint (default: models/google_zh_vocab.txt, which is fetched when missing).
            Fine-tuned models and Hugging Face folders bring their own.
        tokenizer: of a checkpoint: "bert", "char" or "space".
        do_lower_case: of a checkpoint (default: true).
        precision: "fp32", or "bf16" for half the time on a GPU, with three digits.

    Raises:
        UserError: whatever is missing, damaged or does not fit, in one line.
    """
    from uer.api.load import load as load_model  # torch takes seconds

    return load_model(path, device, config_path=config_path, vocab_path=vocab_path, tokenizer=tokenizer,
                      do_lower_case=do_lower_case, precision=precision)
