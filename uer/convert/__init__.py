"""Conversion between UER's checkpoints and Hugging Face's, by one table of names per architecture.

    names            the table's form, and renaming by it
    bert             BERT's table and configuration
    files            reading and writing the files of both worlds
    tokenizer_files  a vocabulary as transformers' tokenizer files
    card             the model card
    recipe           what the files beside a checkpoint tell of its training
    folder           configuration, weights and tokenizer as one Hugging Face folder
    open             a model of either world by its path, under UER's names

Tensors stay in dictionaries here: no model is built, and transformers is not needed. That logits agree is checked by
the scripts that call this package.
"""

from uer.convert.bert import BERT

__all__ = ["BERT"]
