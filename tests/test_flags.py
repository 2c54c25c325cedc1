"""UER-py's command lines, frozen: every flag's name and default, as users' scripts rely on them."""

import dataclasses

import pytest

from uer.config import (
    REQUIRED,
    DatasetConfig,
    LogConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
)
from uer.data.processors.gsg import GsgConfig
from uer.finetuning.config import AdversarialConfig, ClassifierConfig, FinetuneConfig, GridConfig, InferConfig
from uer.sections import member_classes

TOKENIZER = {f"{side}{name}": default for side in ("", "tgt_") for name, default in (
    ("tokenizer", "bert"), ("vocab_path", None), ("merges_path", None), ("spm_model_path", None),
    ("do_lower_case", True))}
MASKING = {"whole_word_masking": False, "span_masking": False, "span_geo_prob": 0.2, "span_max_length": 10}
LOG = {"log_path": None, "log_level": "INFO", "log_file_level": "INFO"}
OPTIM = {"learning_rate": 2e-5, "warmup": 0.1, "lr_decay": 0.5, "optimizer": "adamw", "scheduler": "linear"}
MODEL = {
    "dropout": 0.1, "embedding": ("word",), "tgt_embedding": ("word",), "max_seq_length": 512,
    "relative_position_embedding": False, "share_embedding": False, "remove_embedding_layernorm": False,
    "factorized_embedding_parameterization": False, "encoder": "transformer", "decoder": None,
    "mask": "fully_visible", "layernorm_positioning": "post", "feed_forward": "dense",
    "relative_attention_buckets_num": 32, "remove_attention_scale": False, "remove_transformer_bias": False,
    "layernorm": "normal", "bidirectional": False, "parameter_sharing": False, "has_residual_attention": False,
    "has_lmtarget_bias": False, "target": ("mlm",), "tie_weights": False, "pooling": "first",
    "prefix_lm_loss": False,
    "labels_num": None}  # UER-py's decoder is the transformer, for every encoder; here there is none
DATASET = {
    "corpus_path": REQUIRED, "dataset_path": "dataset.pt", "processes_num": 1, "data_processor": "bert",
    "docs_buffer_size": 100000, "seq_length": 128, "tgt_seq_length": 128, "dup_factor": 5, "short_seq_prob": 0.1,
    "full_sentences": False, "seed": 7, "dynamic_masking": False, "sentence_selection_strategy": "lead"}
TRAIN = {
    "dataset_path": ("dataset.pt",), "pretrained_model_path": None, "output_model_path": REQUIRED,
    "config_path": "models/bert/base_config.json", "total_steps": 100000, "save_checkpoint_steps": 10000,
    "report_steps": 100, "accumulation_steps": 1, "batch_size": 32, "instances_buffer_size": 25600, "seed": 7,
    "data_processor": None, "deep_init": False}  # UER-py's data_processor is bert; ours is the dataset's
PARALLEL = {"world_size": 1, "gpu_ranks": (), "master_ip": "tcp://localhost:12345", "backend": "nccl"}
FINETUNE = {
    "pretrained_model_path": None, "output_model_path": "models/finetuned_model.bin", "train_path": REQUIRED,
    "dev_path": REQUIRED, "test_path": None, "config_path": "models/bert/base_config.json", "batch_size": 32,
    "seq_length": 128, "epochs_num": 3, "report_steps": 100, "seed": 7}
CLASSIFIER = {"soft_targets": False, "soft_alpha": 0.5}
ADVERSARIAL = {"use_adv": False, "adv_type": "fgm", "fgm_epsilon": 1e-6, "pgd_k": 3, "pgd_epsilon": 1.0,
               "pgd_alpha": 0.3}
GRID = {"batch_size_list": (32, 64), "learning_rate_list": (3e-5, 1e-4, 3e-4), "epochs_num_list": (3, 5, 8)}
# seq_length has no fixed default: it is what the model was fine-tuned with, else 128.
INFER = {"load_model_path": REQUIRED, "test_path": REQUIRED, "prediction_path": REQUIRED, "config_path": None,
         "batch_size": 64, "seq_length": None, "labels_num": None, "output_logits": False, "output_prob": False}

CHOICES = {
    (GsgConfig, "sentence_selection_strategy"): ("lead", "random"),
    (ModelConfig, "mask"): ("fully_visible", "causal", "causal_with_prefix"),
    (ModelConfig, "layernorm_positioning"): ("pre", "post"),
    (ModelConfig, "feed_forward"): ("dense", "gated"),
    (ModelConfig, "layernorm"): ("normal", "t5", "rms"),
    (ModelConfig, "pooling"): ("mean", "max", "first", "last"),
    (ParallelConfig, "backend"): ("nccl", "gloo"),
    (LogConfig, "log_level"): ("ERROR", "INFO", "DEBUG", "NOTSET"),
    (LogConfig, "log_file_level"): ("ERROR", "INFO", "DEBUG", "NOTSET"),
    (AdversarialConfig, "adv_type"): ("fgm", "pgd"),
}


@pytest.mark.parametrize("section, golden", [
    (TokenizerConfig, TOKENIZER), (MaskingConfig, MASKING), (DatasetConfig, DATASET), (ModelConfig, MODEL),
    (OptimConfig, OPTIM), (TrainConfig, TRAIN), (ParallelConfig, PARALLEL), (LogConfig, LOG),
    (FinetuneConfig, FINETUNE), (ClassifierConfig, CLASSIFIER), (AdversarialConfig, ADVERSARIAL), (GridConfig, GRID),
    (InferConfig, INFER)], ids=lambda value: getattr(value, "__name__", ""))
def test_flags_and_defaults(section, golden):
    ours = {field.name: field.default for part in (section, *member_classes(section))
            for field in dataclasses.fields(part)}
    assert {name: ours.get(name, "no such flag") for name in golden} == golden


@pytest.mark.parametrize("section, name", CHOICES, ids=lambda value: getattr(value, "__name__", value))
def test_choices(section, name):
    assert section.__dataclass_fields__[name].metadata["choices"] == CHOICES[section, name]
