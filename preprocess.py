"""Make a dataset for pretraining from a corpus."""

import sys

from uer import cli
from uer.config import DatasetConfig, TokenizerConfig
from uer.data.build import build_dataset
from uer.data.processors import PROCESSORS
from uer.registry import choose
from uer.terminal import output_error
from uer.tokenizers import build_tokenizers


def main() -> None:
    """Read the flags, make the dataset and print the summary. If only the summary fails, the exit status is still 0."""
    dataset, tokenizer_config = cli.parse(__doc__, (DatasetConfig, TokenizerConfig))
    processor = choose(PROCESSORS, dataset.data_processor, "--data_processor")
    tokenizers = build_tokenizers(tokenizer_config, ("src", *filter(None, processor.fields)))
    summary = build_dataset(dataset, tokenizers, ["preprocess.py", *sys.argv[1:]],
                            note=lambda line: print(line, file=sys.stderr, flush=True))
    lost = None
    try:
        print("\n".join(summary.lines(dataset.vocab_report_size, tokenizers.values())))
    except OSError as error:
        lost = error
    lost = output_error() or lost
    if lost is not None and not isinstance(lost, BrokenPipeError):  # the work is done: its summary alone is missing
        print(f"note: {dataset.dataset_path} is finished; its summary could not be printed: {lost.strerror}",
              file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
