r"""Pretrain an encoder on a dataset that preprocess.py made.

    python3 pretrain.py --dataset_path dataset.pt --vocab_path models/google_zh_vocab.txt \
        --config_path models/bert/tiny_config.json --output_model_path models/output_model.bin \
        --data_processor mlm --target mlm --total_steps 1000 --save_checkpoint_steps 500

Several processes: --world_size 2 --gpu_ranks 0 1, or torchrun, or srun. The same command goes on with a run that was
stopped. Status 0: finished; 2: something the user can mend, said in one line; 130 and 143: stopped by Ctrl-C and by
SIGTERM, with the training state saved.
"""

import sys

from uer import cli, model_settings
from uer.config import (
    DistillationConfig,
    LogConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
)


def main() -> None:
    """Read the flags and train."""
    sections = model_settings.parse(__doc__, (TrainConfig, ModelConfig, OptimConfig, TokenizerConfig, MaskingConfig,
                                              ParallelConfig, LogConfig, DistillationConfig))

    from uer.training.run import Settings, run  # torch takes seconds; a mistyped flag need not wait for it

    sys.exit(run(Settings(*sections)))


if __name__ == "__main__":
    cli.run(main)
