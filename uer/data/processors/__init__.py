"""One file per `--data_processor`: how documents become instances, and how instances become a batch.

A processor is a class without constructor arguments that has
    instance_builder(seq_length, special_ids, full_sentences) -> a builder for one stretch of the corpus, and
    batch(...) -> the batch that the model sees.
"""

from uer.data.processors.mlm import MlmProcessor

PROCESSORS = {"mlm": MlmProcessor}
PLANNED = ("bert", "lm", "bilm", "albert", "mt", "t5", "cls", "prefixlm", "gsg", "bart", "cls_mlm")
