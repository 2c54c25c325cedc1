"""Continue texts with a language model such as GPT-2.

Each line of --test_path is continued until [SEP] or --seq_length tokens. --prediction_path gets each line, and below it
the line with its continuation. A model with --mask causal_with_prefix reads [CLS] line [SEP], as in its training, and
its answer alone is written.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _checkpoint import CheckpointFlags
from _generation import FileFlags, batches, open_language_model, read_lines, shown, write_texts

from uer import cli
from uer.config import ModelConfig, TokenizerConfig
from uer.errors import UserError
from uer.generation import GenerationConfig, generate


def main() -> None:
    files, config, source, tokenizer_config, model_config = cli.parse(
        __doc__, (FileFlags, GenerationConfig, CheckpointFlags, TokenizerConfig, ModelConfig))
    model, tokenizer, _ = open_language_model(source, tokenizer_config, model_config)
    if model.decoder is not None:
        raise UserError(f"{source.path} has a decoder: scripts/generate_seq2seq.py generates its texts")
    lines, vocab = read_lines(files.test_path), tokenizer.vocab
    length = min(files.seq_length, model.config.longest_row)
    answers = model.config.mask == "causal_with_prefix"
    end = [vocab.sep_id] if answers else []
    prompts = [[vocab.cls_id, *tokenizer.encode(line)][:length - 1 - len(end)] + end for line in lines]
    texts = [""] * len(lines)
    for batch in shown(batches(prompts, files.batch_size, length, model.config.longest_row), len(lines)):
        chosen = [prompts[number] for number in batch]
        found = generate(model, chosen, most=length - min(map(len, chosen)), stop_id=vocab.sep_id, config=config,
                         numbers=batch)
        for number, prompt, new in zip(batch, chosen, found):
            texts[number] = tokenizer.decode([*([] if answers else prompt[1:]), *new[:length - len(prompt)]])
    write_texts(files.prediction_path, lines, texts)


if __name__ == "__main__":
    cli.run(main)
