"""Text to text: a model with an encoder and a decoder reads a text, or two, and writes another (T5, BART, Pegasus).

The file is a TSV with the columns `text_a`, `label` (the text to write), and maybe `text_b`. Rows are, with a [SEP]
between two texts,

    encoder   [CLS] 今 天 真 好 [SEP]
    decoder   [CLS]  积   极
    labels     积    极 [SEP]

The prediction is generated greedily, or by beam search with --beam_size, up to [SEP]. With its [CLS] and [SEP] a text
has at most --tgt_seq_length tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import IGNORED, Batch, Examples
from uer.finetuning.config import Text2TextConfig, Text2TextInferConfig
from uer.finetuning.inputs import Prediction
from uer.finetuning.readers import Table
from uer.finetuning.rows import Sequences, tokenize_all
from uer.finetuning.table_task import TableTask
from uer.finetuning.task import TextToRows
from uer.finetuning.text_scores import SCORES, require
from uer.generation import GenerationConfig, generate
from uer.layers.layout import padded_layout
from uer.model import Model


class Writer(Model):
    """A model with a decoder and the target lm: it computes logits in training, and generates texts in evaluation.

    Args:
        longest: the most tokens that are generated, [SEP] included.
        generation: how tokens are chosen.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, longest: int, generation: GenerationConfig) -> None:
        super().__init__(config, vocab_size)
        self.longest, self.generation = longest, generation

    def forward(self, batch: Batch) -> Tensor | list[list[int]]:
        """In training the logits (B, T, V) of each token of the target `tgt` but the first; in evaluation the token ids
        of B generated texts."""
        return self._logits(batch) if self.training else self._texts(batch)

    def _logits(self, batch: Batch) -> Tensor:
        """(B, T, V)"""
        tgt = batch.targets["tgt"][:, :-1]  # (B, T)
        layout, memory_layout = padded_layout((tgt != IGNORED).long()), padded_layout(batch.seg)
        memory = self.encode(batch.src, batch.seg).flatten(0, 1)  # (B * S, H), the tokens of a padded layout
        embedded = self.tgt_embedding(tgt.clamp(min=0), layout)
        return self.target["lm"].logits(layout.scatter(self.decoder(embedded, layout, memory, memory_layout)))

    def _texts(self, batch: Batch) -> list[list[int]]:
        cls_id, sep_id = batch.targets["ends"][0].tolist()  # (B, 2), in each row the same
        prompts = [row[:length] for row, length in zip(batch.src.tolist(), batch.real_tokens.tolist())]
        return generate(self, prompts, most=self.longest, stop_id=sep_id, start_id=cls_id, config=self.generation)


class Text2Text(TableTask):
    """Writes a text for every text or pair of texts.

    Args:
        tgt_seq_length: the most tokens of a text that is written, [CLS] and [SEP] included.
        generation: how tokens are chosen.
        text_metrics: keys of `SCORES`, beside exact match.
    """

    name = "text2text"
    metric_names = ("exact_match",)
    config_class = Text2TextConfig
    infer_config_class = Text2TextInferConfig
    has_target = True

    def __init__(self, tgt_seq_length: int, beam_size: int = 1, length_penalty: float = 1.0,
                 text_metrics: Sequence[str] = ()) -> None:
        self.tgt_seq_length, self.text_metrics = tgt_seq_length, tuple(text_metrics)
        self.generation = GenerationConfig(top_k=1, beam_size=beam_size, length_penalty=length_penalty)
        self.metric_names = ("exact_match", *text_metrics)

    @classmethod
    def of_training_file(cls, path: str, config: Text2TextConfig, columns: tuple[str, ...] = ()) -> "Text2Text":
        for name in config.text_metrics:
            require(name)
        return cls(config.tgt_seq_length, config.beam_size, config.length_penalty, config.text_metrics)

    def of_texts(self, first: Sequence[str], second: Sequence[str] | None, encoder: TextToRows) -> Examples:
        """The rows of texts or of pairs, all segment 1, with the target `ends` (N, 2): the ids of [CLS] and [SEP]."""
        rows, vocab = encoder.sequences(first, second), encoder.tokenizer.vocab
        return Examples(Sequences(rows.tokens, rows.lengths),
                        targets={"ends": np.broadcast_to(np.array([vocab.cls_id, vocab.sep_id]), (len(rows), 2))},
                        info={"tokenizer": encoder.tokenizer})

    def targets(self, table: Table, encoder: TextToRows) -> dict[str, np.ndarray]:
        """The target `tgt`, [CLS] label [SEP], at most tgt_seq_length tokens, int64 (N, T + 1), padded with IGNORED."""
        vocab, pieces = encoder.tokenizer.vocab, tokenize_all(encoder.tokenizer, table["label"])
        rows = [[vocab.cls_id, *pieces[row].tolist(), vocab.sep_id][:self.tgt_seq_length] for row in range(len(pieces))]
        longest = max(map(len, rows))
        return {"tgt": np.array([row + [IGNORED] * (longest - len(row)) for row in rows])}

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        if config.decoder is None:
            raise UserError("--config_path: the model has no decoder; text to text needs one, as in "
                            "models/t5/small_config.json")
        if self.tgt_seq_length > config.longest_tgt_row:
            raise UserError(f"--tgt_seq_length {self.tgt_seq_length} exceeds the model's max_seq_length "
                            f"{config.max_seq_length}")
        return Writer(replace(config, target=("lm",)), vocab_size, self.tgt_seq_length - 1, self.generation)

    def denominator(self, examples: Examples, chosen: np.ndarray) -> float:
        """The number of tokens that are learned."""
        return float((examples.targets["tgt"][chosen, 1:] != IGNORED).sum())

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the tokens that follow, summed over tokens.

        Args:
            predicted: (B, T, V) logits.
            batch: target `tgt` (B, T + 1), whose column t + 1 the logits of column t predict.
        """
        return F.cross_entropy(predicted.flatten(0, 1), batch.targets["tgt"][:, 1:].flatten(),
                               ignore_index=IGNORED, reduction="sum")

    def outputs(self, predicted: list[list[int]], batch: Batch) -> list[np.ndarray]:
        """The token ids of each text, float32 (tokens,); without [SEP]."""
        return [np.array(text, np.float32) for text in predicted]

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        """Exact match of token ids up to [SEP], and the scores that --text_metrics names."""
        sep_id = examples.targets["ends"][0, 1]
        wanted = [[token for token in row[1:].tolist() if token not in (IGNORED, sep_id)]
                  for row in examples.targets["tgt"]]
        found = [output.astype(int).tolist() for output in outputs]
        scores = {"exact_match": float(np.mean([one == other for one, other in zip(found, wanted)]))}
        entries = examples.info["tokenizer"].vocab.tokens
        texts = [[[entries[token] for token in row] for row in rows] for rows in (found, wanted)]
        return scores | {name: SCORES[name](*texts) for name in self.text_metrics}

    def settings(self) -> dict[str, Any]:
        return {"tgt_seq_length": self.tgt_seq_length, "beam_size": self.generation.beam_size,
                "length_penalty": self.generation.length_penalty}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Text2Text":
        return cls(settings["tgt_seq_length"], settings["beam_size"], settings["length_penalty"])

    def with_flags(self, flags: Text2TextInferConfig) -> "Text2Text":
        penalty = self.generation.length_penalty if flags.length_penalty is None else flags.length_penalty
        return Text2Text(flags.tgt_seq_length or self.tgt_seq_length, flags.beam_size or self.generation.beam_size,
                         penalty)

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "Text2Text":
        return cls(Text2TextConfig.tgt_seq_length)

    def texts(self, outputs: list[np.ndarray], examples: Examples) -> list[str]:
        """The text of every example."""
        return [examples.info["tokenizer"].decode(output.astype(int).tolist()) for output in outputs]

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV of one column; tabs and line ends within a text become spaces."""
        return ["label", *(" ".join(text.replace("\t", " ").splitlines()) for text in self.texts(outputs, examples))]

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        return [Prediction(text) for text in self.texts(outputs, examples)]
