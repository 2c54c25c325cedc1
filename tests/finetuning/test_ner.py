"""Tags of words: schemes, --label2id_path, --crf_target, and the models that UER-py trained."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from uer.checkpoint.files import load_weights, save_weights
from uer.errors import UserError
from uer.finetuning.batches import collate
from uer.finetuning.command import finetune, parse_command
from uer.finetuning.heads import CrfTagger
from uer.finetuning.infer import infer
from uer.finetuning.metrics import entities, entity_scores
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.ner import Ner
from uer.layers.crf import Scores
from uer.tokenizers import build_tokenizer

LETTERS = "丙丁戊己庚辛"


def table(count: int = 48, seed: int = 0) -> str:
    """Rows in which every run of 甲 is a word of BMES and any other character a word of its own."""
    generator, lines = random.Random(seed), ["label\ttext_a"]
    for _ in range(count):
        words = ["甲" * generator.randint(2, 4) if generator.random() < 0.4 else generator.choice(LETTERS)
                 for _ in range(generator.randint(1, 3))]
        words = [word for word, next_one in itertools.pairwise([*words, ""]) if word[0] != "甲" or next_one[:1] != "甲"]
        tags = [tag for word in words for tag in (["S"] if len(word) == 1 else ["B", *"M" * (len(word) - 2), "E"])]
        lines.append(" ".join(tags) + "\t" + " ".join("".join(words)))
    return "\n".join(lines) + "\n"


def train(tiny, content: str, **changes) -> dict:
    path = tiny.write("data.tsv", content)
    finetune("test", Ner, tiny.flags(**{"train_path": path, "dev_path": path, "epochs_num": 6, **changes}))
    return json.loads(Path(tiny.path("out/model.json")).read_text("utf-8"))


def predict(tiny, *more: str, content: str = table()) -> list[str]:
    infer("test", Ner, ["--load_model_path", tiny.path("out/model.bin"), "--test_path", tiny.write("test.tsv", content),
                        "--prediction_path", tiny.path("out.txt"), "--device", "cpu", *more])
    return Path(tiny.path("out.txt")).read_text("utf-8").splitlines()


def test_a_field_learns_and_predicts_what_was_evaluated(tiny):
    tags = tiny.write("l2i.json", '{"S": 0, "B": 1, "M": 2, "E": 3}')
    saved = train(tiny, table(), crf_target=True, label2id_path=tags)
    assert saved["labels"] == ["S", "B", "M", "E"] and saved["crf"] and saved["scheme"] == "BMES"
    assert saved["training"]["dev"]["f1"] > 0.9
    found = predict(tiny, "--crf_target", "--label2id_path", tags)
    gold = [line.split("\t")[0].split() for line in table().splitlines()[1:]]
    assert entity_scores([line.split() for line in found[1:]], gold, "BMES")["f1"] == saved["training"]["dev"]["f1"]
    weights = load_weights(tiny.path("out/model.bin"))
    assert weights["crf.transitions"].shape == (4, 4) and weights["output_layer.weight"].shape == (4, 16)
    with pytest.raises(UserError, match=r"other\.json: the model has other tags, or in another order: S, B"):
        predict(tiny, "--label2id_path", tiny.write("other.json", '{"S": 1, "B": 0, "M": 2, "E": 3}'))


def test_the_loss_of_a_batch_is_the_sum_of_its_rows(tiny):
    """So that ranks may share a batch; rows without a word count for nothing."""
    command = parse_command("test", Ner, tiny.flags(crf_target=True))
    path = tiny.write("data.tsv", table(6))
    task = Ner.of_training_file(path, command.task_config)
    tokenizer = build_tokenizer(command.tokenizer)
    examples = task.examples(path, TextToRows(tokenizer, 16))
    model = task.build(command.model, 27).eval()
    losses = []
    for chosen in (np.arange(6), *np.arange(6)[:, None]):
        batch = collate(examples, chosen, 0)
        losses.append(task.loss(model(batch), batch).item())
    assert losses[0] == pytest.approx(sum(losses[1:]), rel=1e-5)
    assert task.denominator(examples, np.arange(6)) == 6.0


def brute_force(emissions: torch.Tensor, scores: Scores) -> tuple[int, ...]:
    """The best tags of one row, out of all."""
    def score(tags: tuple[int, ...]) -> float:
        return float(scores.start[tags[0]] + scores.end[tags[-1]]
                     + sum(emissions[place, tag] for place, tag in enumerate(tags))
                     + sum(scores.transitions[one, other] for one, other in itertools.pairwise(tags)))
    return max(itertools.product(range(emissions.shape[1]), repeat=len(emissions)), key=score)


@pytest.mark.parametrize("crf", [False, True])
@torch.no_grad()
def test_models_of_uer_py_read_the_bare_tokens_and_have_one_output_more(tiny, crf):
    """Its weights: outputs for the tags of --label2id_path and [PAD]; [PAD] is shown as O."""
    config = parse_command("test", Ner, tiny.flags()).model
    torch.manual_seed(1)
    model = CrfTagger(config, 27, 4).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".weight") or name.startswith("crf."):
            parameter.data.normal_(0.0, 0.5)
    state = {name: value for name, value in model.state_dict().items() if crf or not name.startswith("crf.")}
    Path(tiny.path("out")).mkdir()
    save_weights(state, tiny.path("out/model.bin"))
    rows = ["丙 丁 甲 乙", "甲", "乙 丙 丙 庚 辛"]
    known = ["--config_path", tiny.path("config.json"), "--vocab_path", tiny.path("vocab.txt"), "--seq_length", "8"]
    tags = ["--label2id_path", tiny.write("l2i.json", '{"O": 0, "B-PER": 1, "I-PER": 2}')]
    found = predict(tiny, *known, *tags, *["--crf_target"] * crf, content="text_a\n" + "\n".join(rows) + "\n")
    vocab = Path(tiny.path("vocab.txt")).read_text("utf-8").split("\n")
    expected = []
    for row in rows:
        src = torch.tensor([[vocab.index(word) for word in row.split()]])
        emissions = model.output_layer(model.encode(src, torch.ones_like(src)))[0]
        best = brute_force(emissions, model.crf()) if crf else emissions.argmax(-1).tolist()
        expected.append(" ".join(("O", "B-PER", "I-PER", "O")[number] for number in best))
    assert found == ["pred_label", *expected]
    assert len({tag for row in expected for tag in row.split()}) > 1
    with pytest.raises(UserError, match="--label2id_path is required"):
        predict(tiny, *known)
    with pytest.raises(UserError, match="2 tags, but the model has 4 outputs"):
        predict(tiny, *known, "--label2id_path", tiny.write("few.json", '{"O": 0, "B-PER": 1}'))
    if not crf:
        with pytest.raises(UserError, match="--crf_target: --load_model_path was trained without it"):
            predict(tiny, *known, *tags, "--crf_target")


@pytest.mark.parametrize("tags, scheme, expected", [
    ("B-PER I-PER O I-LOC", "BIO", {(0, 1, "PER"), (3, 3, "LOC")}),
    ("B-PER M-PER E-PER S-LOC", "BMES", {(0, 2, "PER"), (3, 3, "LOC")}),
    ("B-PER I-PER E-PER E-PER S-PER", "BIOES", {(0, 2, "PER"), (3, 3, "PER"), (4, 4, "PER")}),
    ("B-PER L-PER U-LOC I-LOC", "BILOU", {(0, 1, "PER"), (2, 2, "LOC"), (3, 3, "LOC")}),
    ("B M E S B B", "BMES", {(0, 2, ""), (3, 3, ""), (4, 4, ""), (5, 5, "")}),
    ("B-PER I-LOC I-LOC", "BIO", {(0, 0, "PER"), (1, 2, "LOC")}),
    ("NN VV O NN", "none", {(0, 0, "NN"), (1, 1, "VV"), (3, 3, "NN")}),
])
def test_entities_of_each_scheme(tags, scheme, expected):
    assert entities(tags.split(), scheme) == expected


@pytest.mark.parametrize("rows, scheme", [
    (["B-PER I-PER", "O B-LOC"], "BIO"), (["B-PER E-PER", "I-PER S-LOC"], "BIOES"), (["B M", "E S"], "BMES"),
    (["B-X-Y M-X-Y E-X-Y"], "BMES"), (["B-PER L-PER U-LOC I-LOC"], "BILOU"), (["NN VV"], "none"), (["n v m"], "none"),
    (["NN M P"], "none"), (["O O"], "BIO")])
def test_the_scheme_is_found_in_the_training_file(tiny, rows, scheme):
    content = "label\ttext_a\n" + "".join(f"{row}\t{' '.join('甲' * len(row.split()))}\n" for row in rows)
    task = Ner.of_training_file(tiny.write("data.tsv", content), Ner.config_class())
    assert task.scheme == scheme
    assert ("O" in task.labels.names) == (scheme != "none")


@pytest.mark.parametrize("rows, message", [
    (["B-PER I-PER", "B-PER M-PER"], "data.tsv:3: tag 'M-PER'.*not of one scheme"),
    (["B-PER X-PER"], "data.tsv:2: tag .*not of one scheme"),
    (["B-PER PER"], "data.tsv:2: tag .*not of one scheme"),
    (["PER-B PER-I"], "data.tsv:2: .*must stand in front"),
    (["B_PER I_PER O"], "data.tsv:2: .*must stand in front"),
])
def test_tags_of_no_scheme_are_refused(tiny, rows, message):
    content = "label\ttext_a\n" + "".join(f"{row}\t{' '.join('甲' * len(row.split()))}\n" for row in rows)
    with pytest.raises(UserError, match=message):
        Ner.of_training_file(tiny.write("data.tsv", content), Ner.config_class())


@pytest.mark.parametrize("content, message", [
    ("[]", "a JSON object"), ("{}", "a JSON object"), ('{"O": 1}', "'O' must lie between 0 and 0"),
    ('{"O": 0, "B": 0}', "same number"), ('{"O": true}', "'O' must lie"), ("{", "not JSON"),
    ('{"O": 0, "S-PER": 1}', r"data.tsv:2: tag 'B-PER' is not one of .*l2i.json: O, S-PER"),
    ('{"O": 0, "B-PER": 1, "X-PER": 2}', "l2i.json: its tags are not all of one scheme"),
])
def test_bad_label2id_files(tiny, content, message):
    data = "label\ttext_a\nB-PER O\t甲 乙\n"
    with pytest.raises(UserError, match=message):
        train(tiny, data, label2id_path=tiny.write("l2i.json", content))
