"""Conversion between UER's checkpoints and Hugging Face's, by one table per architecture, which both directions read.

    architectures        the tables: names, settings, classes of each architecture
    names                the form of a table of names, and renaming by it
    changes              how a tensor of one side becomes one of the other
    settings             the form of a table of settings, and reading and writing config.json by it
    hugging_face_files   reading and writing a Hugging Face folder's weights and configuration
    tokenizer_files      the tokenizer of a Hugging Face folder
    tokenizer_writing    a tokenizer as transformers' files
    model_card           the model card
    provenance           what the files beside a checkpoint tell the model card
    folder               configuration, weights and tokenizer as one Hugging Face folder
    open                 a model of UER or of Hugging Face by its path, under UER's names

Tensors stay in dictionaries here: no model is built, and transformers is not needed. That logits agree is checked by
the scripts that call this package.
"""

from uer.convert.architectures import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture"]
