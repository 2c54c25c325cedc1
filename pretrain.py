r"""Pretrain a model on a dataset that preprocess.py made.

    python3 pretrain.py --dataset_path dataset.pt --vocab_path models/google_zh_vocab.txt \
        --config_path models/bert/tiny_config.json --output_model_path models/output_model.bin \
        --data_processor mlm --target mlm --total_steps 1000 --save_checkpoint_steps 500

Start several processes with --world_size 2 --gpu_ranks 0 1, with torchrun or with srun. To continue a run that was
stopped, start the same command again. Exit status: 0 finished; 2 an error that the user can correct, printed in one
line; 130 and 143 stopped by Ctrl-C and by SIGTERM, after the training state was saved.
"""

import sys

from uer import cli, model_settings
from uer.config import (
    DistillationConfig,
    LogConfig,
    LoraConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
)

SECTIONS = (TrainConfig, ModelConfig, OptimConfig, TokenizerConfig, MaskingConfig, ParallelConfig, LogConfig,
            DistillationConfig, LoraConfig)


def main() -> None:
    """Read the flags and train."""
    sections = model_settings.parse(__doc__, SECTIONS)

    # Importing torch takes seconds; an error in a flag is shown before.
    from uer.training.inputs import Settings
    from uer.training.run import run

    sys.exit(run(Settings(*sections)))


if __name__ == "__main__":
    cli.run(main)
