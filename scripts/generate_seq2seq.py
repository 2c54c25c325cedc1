"""Generate texts with a model that has an encoder and a decoder, such as T5, BART, Pegasus or a translation model.

Each line of --test_path is read as [CLS] line [SEP], and the decoder's text ends at [SEP] or after --tgt_seq_length
tokens. In a line, [MASK] and T5's <extra_id_0>, <extra_id_1>, ... are these tokens. --prediction_path gets each line,
and below it the text.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _checkpoint import CheckpointFlags
from _generation import FileFlags, batches, encode_text, open_language_model, read_lines, shown, write_texts

from uer import cli
from uer.config import ModelConfig, TokenizerConfig, flag
from uer.errors import UserError
from uer.generation import GenerationConfig, generate


@dataclass(frozen=True)
class TargetFlags:
    """Target side"""

    tgt_seq_length: int = flag(128, "Maximum length of a generated text in tokens.")

    def problems(self) -> list[str]:
        return [] if self.tgt_seq_length >= 1 else ["--tgt_seq_length must be at least 1"]


def main() -> None:
    files, target, config, source, tokenizer_config, model_config = cli.parse(
        __doc__, (FileFlags, TargetFlags, GenerationConfig, CheckpointFlags, TokenizerConfig, ModelConfig))
    model, tokenizer, tgt_tokenizer = open_language_model(source, tokenizer_config, model_config)
    if model.decoder is None:
        raise UserError(f"{source.path} has no decoder: scripts/generate_lm.py generates its texts")
    lines, vocab, tgt_vocab = read_lines(files.test_path), tokenizer.vocab, tgt_tokenizer.vocab
    length = min(files.seq_length, model.config.longest_row)
    prompts = [[vocab.cls_id, *encode_text(tokenizer, line)[:length - 2], vocab.sep_id] for line in lines]
    texts = [""] * len(lines)
    for batch in shown(batches(prompts, files.batch_size, 0, length), len(lines)):
        found = generate(model, [prompts[number] for number in batch], most=target.tgt_seq_length,
                         stop_id=tgt_vocab.sep_id, start_id=tgt_vocab.cls_id, config=config, numbers=batch)
        for number, new in zip(batch, found):
            texts[number] = tgt_tokenizer.decode(new)
    write_texts(files.prediction_path, lines, texts)


if __name__ == "__main__":
    cli.run(main)
