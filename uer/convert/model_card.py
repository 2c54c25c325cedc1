"""The model card: what is known of a model, and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uer.config import ModelConfig
from uer.convert.architectures import Architecture
from uer.convert.provenance import Stage


@dataclass(frozen=True)
class ModelCardFacts:
    """What a model card says.

    Attributes:
        name: the model's name; the folder's is a good one.
        architecture: which kind of model it is.
        head: what stands on top, a key of `architecture.classes`.
        config: the model's settings.
        vocab_size: entries of the vocabulary.
        parameters: how many numbers the weights hold, shared ones once.
        do_lower_case: the tokenizer's setting.
        chinese: whether the vocabulary is mostly Chinese characters.
        source: the converted file's name.
        stages: the training runs that are recorded, newest first.
        labels: the labels' names of a fine-tuned model.
        fine_tuning: what is recorded of the fine-tuning, label -> value.
        check: the sentence that says how the conversion was checked.
        notes: Markdown about corpus and training that only whoever trained it knows.
        longest: the longest sequence that transformers' model takes; that of `config` where it is 0.
        special_tokens: role -> entry of the vocabulary.
    """

    name: str
    architecture: Architecture
    head: str
    config: ModelConfig
    vocab_size: int
    parameters: int
    do_lower_case: bool
    chinese: bool
    source: str
    stages: Sequence[Stage] = ()
    labels: Sequence[str] = ()
    fine_tuning: Mapping[str, Any] = field(default_factory=dict)
    check: str = ""
    notes: str = ""
    longest: int = 0
    special_tokens: Mapping[str, str] = field(default_factory=dict)


# What a model with a head does: its pipeline, the words after "A BERT encoder", an example's input.
_USES = {
    "mlm": ("fill-mask", "pretrained as a masked-language model", "中国的首都是[MASK]京。"),
    "bert": ("fill-mask", "pretrained with masked words and sentence pairs", "中国的首都是[MASK]京。"),
    "albert": ("fill-mask", "pretrained with masked words and the order of sentences", "中国的首都是[MASK]京。"),
    "lm": ("text-generation", "pretrained to predict the next token", "中国的首都"),
    "sbert": ("sentence-similarity", "whose vectors of sentences can be compared", ""),
    "seq2seq": ("text2text-generation", "that were trained together", "中国的首都是北京。"),
    "text_classification": ("text-classification", "fine-tuned to classify texts", "这本书很好看。"),
    "token_classification": ("token-classification", "fine-tuned to label tokens", "她住在北京。"),
    "extractive_qa": ("question-answering", "fine-tuned to find answers in a text", ""),
}


def _use(facts: ModelCardFacts) -> tuple[str, str, str]:
    """The row of `_USES`."""
    pipeline, words, example = _USES["seq2seq" if facts.architecture.has_decoder else facts.head]
    return pipeline, words, example.replace("[MASK]", facts.special_tokens.get("mask_token", "[MASK]"))


def model_card(facts: ModelCardFacts) -> str:
    """The text of README.md, with the YAML block that the Hugging Face hub reads."""
    parts = ("encoder and decoder" if facts.architecture.has_decoder else
             "language model" if facts.head == "lm" else "encoder")
    kind = f"{facts.architecture.article} {facts.architecture.title} {parts} {_use(facts)[1]}."
    return "\n".join([*_metadata(facts), f"# {facts.name}", "", kind, "", *_settings(facts), *_training(facts),
                      *_usage(facts), *_conversion(facts)])


def _metadata(facts: ModelCardFacts) -> list[str]:
    pipeline, _, example = _use(facts)
    lines = ["---"]
    if facts.chinese:
        lines.append("language: zh")
    library = "sentence-transformers" if facts.head == "sbert" else "transformers"
    lines += [f"library_name: {library}", f"pipeline_tag: {pipeline}", "tags:", f"- {facts.architecture.name}"]
    if facts.chinese and example:
        lines += ["widget:", f'- text: "{example}"']
    return [*lines, "---", ""]


def _settings(facts: ModelCardFacts) -> list[str]:
    config = facts.config
    layers = {"Layers": config.layers_num}
    if facts.architecture.has_decoder:
        layers = {"Layers of the encoder": config.layers_num, "Layers of the decoder": config.decoder_layers_num}
    rows = {**layers, "Hidden size": config.hidden_size, "Attention heads": config.heads_num,
            "Feed-forward size": config.feedforward_size, "Activation": config.hidden_act,
            "Vocabulary": f"{facts.vocab_size:,} entries, {'lower-cased' if facts.do_lower_case else 'cased'}",
            "Longest sequence": f"{facts.longest or config.max_seq_length} tokens",
            "Parameters": f"{facts.parameters:,}"}
    if config.attention_window:
        rows["Attention"] = _attention(config)
    if facts.labels:
        shown = ", ".join(facts.labels[:12]) + (", ..." if len(facts.labels) > 12 else "")
        rows["Labels"] = f"{len(facts.labels)} ({shown})"
    return ["## Architecture", "", *_table(rows), ""]


def _attention(config: ModelConfig) -> str:
    """`to a window of 128 tokens; in layers 1, 4 to all tokens`"""
    every = config.global_attention_every
    whole = ", ".join(map(str, range(1, config.layers_num + 1, every))) if every else ""
    return f"to a window of {config.attention_window} tokens" + (f"; in layers {whole} to all tokens" if every else "")


def _training(facts: ModelCardFacts) -> list[str]:
    lines = ["## Training", ""]
    if facts.fine_tuning:
        return [*lines, *_table(facts.fine_tuning), ""]
    if not facts.stages and not facts.notes:
        return [*lines, f"Nothing is recorded beside `{facts.source}` about how it was trained: no corpus, no number "
                "of steps, no learning rate. Whoever publishes this model should write them here.", ""]
    for number, stage in zip(range(len(facts.stages), 0, -1), facts.stages):
        title = [f"### Stage {number}", ""] if len(facts.stages) > 1 else []
        lines += [*title, *_table(stage.rows()), ""]
    started = facts.stages[-1].settings.get("pretrained_model_path") if facts.stages else None
    if started:
        lines += [f"How `{Path(started).name}` was trained is not recorded here.", ""]
    if facts.notes:
        return [*lines, facts.notes.strip(), ""]
    return [*lines, "The corpus is not recorded: a dataset's fingerprint tells only whether two runs saw the same.", ""]


def _usage(facts: ModelCardFacts) -> list[str]:
    if facts.head == "extractive_qa":
        return _question_answering(facts.name)
    if facts.head == "sbert":
        return _sentence_vectors(facts.name)
    if facts.architecture.has_decoder:
        return _generation(facts)
    if facts.head == "lm":
        return _continuation(facts)
    pipeline, _, example = _use(facts)
    variable, pretrained = pipeline.replace("-", "_"), facts.head in facts.architecture.outputs
    imported = "AutoModel, AutoTokenizer, pipeline" if pretrained else "pipeline"
    lines = ["## Use", "", "```python", f"from transformers import {imported}", "",
             f'{variable} = pipeline("{pipeline}", model="{facts.name}")', f'print({variable}("{example}"))']
    if pretrained:
        lines += ["", f'tokenizer = AutoTokenizer.from_pretrained("{facts.name}")',
                  f'model = AutoModel.from_pretrained("{facts.name}")',
                  f'hidden = model(**tokenizer("{example}", return_tensors="pt")).last_hidden_state']
    lines += ["```", ""]
    if facts.head == "mlm" and not facts.architecture.pooler:
        lines += ["It has no pooler: `AutoModel` gives `last_hidden_state`, a vector for each token.", ""]
    elif facts.head == "mlm":
        lines += ["It has no pooler: masked-language modelling trains none, so `AutoModel` starts one at random; use "
                  "`last_hidden_state`.", ""]
    return lines


def _generation(facts: ModelCardFacts) -> list[str]:
    return ["## Use", "", "```python", "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer", "",
            f'tokenizer = AutoTokenizer.from_pretrained("{facts.name}")',
            f'model = AutoModelForSeq2SeqLM.from_pretrained("{facts.name}")',
            f'inputs = tokenizer("{_use(facts)[2]}", return_tensors="pt")',
            "outputs = model.generate(**inputs, max_new_tokens=50)",
            "print(tokenizer.decode(outputs[0], skip_special_tokens=True))", "```", "",
            'transformers 4 also has a `text2text-generation` pipeline; transformers 5 no longer has it.', ""]


def _continuation(facts: ModelCardFacts) -> list[str]:
    begin = facts.special_tokens.get("cls_token", "")
    prompt = begin + (_use(facts)[2] if facts.chinese else "The capital of China is")
    return ["## Use", "", "```python", "from transformers import pipeline", "",
            f'text_generation = pipeline("text-generation", model="{facts.name}")',
            f'print(text_generation("{prompt}", add_special_tokens=False, max_new_tokens=50))', "```", "",
            f"A text begins with `{begin}`. `add_special_tokens=False` keeps the tokenizer from putting the token that "
            "ends a text behind the prompt.", ""]


def _sentence_vectors(name: str) -> list[str]:
    return ["## Use", "", "```python", "from sentence_transformers import SentenceTransformer", "",
            f'model = SentenceTransformer("{name}")',
            'vectors = model.encode(["那个人很开心", "那个人非常开心"])',
            "print(model.similarity(vectors, vectors))", "```", "",
            "It has no pooler: `AutoModel` of transformers starts one at random; use `last_hidden_state`.", ""]


def _question_answering(name: str) -> list[str]:
    return ["## Use", "", "```python", "from transformers import AutoModelForQuestionAnswering, AutoTokenizer", "",
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            f'model = AutoModelForQuestionAnswering.from_pretrained("{name}")',
            'inputs = tokenizer("她住在哪里?", "她住在北京。", return_tensors="pt")',
            "outputs = model(**inputs)",
            "start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()",
            'print(tokenizer.decode(inputs["input_ids"][0, start:end + 1]))', "```", "",
            'transformers 4 also has a `question-answering` pipeline; transformers 5 no longer has that pipeline.',
            ""]


def _conversion(facts: ModelCardFacts) -> list[str]:
    checked = f" {facts.check}" if facts.check else ""
    return ["## Conversion", "", f"Converted from the UER checkpoint `{facts.source}`.{checked}", ""]


def _table(rows: Mapping[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_cell(label)} | {_cell(value)} |" for label, value in rows.items())]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
