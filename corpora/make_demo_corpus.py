"""Write the demo's corpus, its held-out part and a small classification task, all from `demo_facts.py`.

    python3 corpora/make_demo_corpus.py

The corpus has one document on each line, for `--data_processor mlm`. A document consists of a few sentences about one
subject: a country, a province, a river, a season, an animal or a review. The held-out documents are made from the same
facts, but none of them is in the corpus. The task (`label`, `text_a`) is to classify reviews as positive or negative.
Its training part uses some of the positive and negative words and its test part the others, so a model does well only
if it has learned in pretraining which words are similar.
"""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from corpora import demo_facts as facts
from uer import cli
from uer.config import flag


@dataclass(frozen=True)
class DemoConfig:
    """The output files and their sizes."""

    corpus_path: str = flag("corpora/demo_corpus.txt", "The corpus, one document on each line.", path="write")
    heldout_path: str = flag("corpora/demo_heldout.txt", "Held-out documents, one on each line.", path="write")
    task_dir: str = flag("corpora/demo_task", "Folder for train.tsv, dev.tsv and test.tsv.", path="write_folder")
    documents: int = flag(8000, "Documents of the corpus.")
    heldout_documents: int = flag(400, "Held-out documents.")
    task_rows: int = flag(300, "Rows of each part of the task.")
    seed: int = flag(7, "Seed.")


def country(rng: random.Random) -> list[str]:
    name, capital, continent, language, known_for = rng.choice(facts.COUNTRIES)
    verb = rng.choice(("讲", "说", "使用"))
    sentences = [
        rng.choice((f"{name}的首都是{capital}。", f"{capital}是{name}的首都。", f"{name}首都{capital}。",
                    f"大家都知道，{name}的首都是{capital}。", f"{name}把{capital}定为首都。")),
        rng.choice((f"{name}位于{continent}。", f"{name}是{continent}的国家。", f"在{continent}可以找到{name}。")),
        rng.choice((f"{name}人{verb}{language}。", f"{capital}的居民{verb}{language}。")),
        rng.choice((f"说到{name}，人们会想到{known_for}。", f"{name}的{known_for}很有名。",
                    f"去{capital}旅游的人都想看看{known_for}。")),
    ]
    return rng.sample(sentences, rng.randint(1, len(sentences)))


def province(rng: random.Random) -> list[str]:
    name, seat, short, part, product = rng.choice(facts.PROVINCES)
    sentences = [
        rng.choice((f"{name}的省会是{seat}。", f"{seat}是{name}的省会。", f"{name}省会{seat}。")),
        rng.choice((f"{name}简称{short}。", f"{short}是{name}的简称。")),
        rng.choice((f"{name}在中国的{part}。", f"{seat}是{part}的城市。", f"{name}地处{part}。")),
        rng.choice((f"{name}的{product}很有名。", f"到{seat}要尝尝{product}。", f"{product}是{name}的特产。")),
    ]
    return rng.sample(sentences, rng.randint(1, len(sentences)))


def river(rng: random.Random) -> list[str]:
    name, source, cities, mouth = rng.choice(facts.RIVERS)
    sentences = [
        rng.choice((f"{name}发源于{source}。", f"{name}从{source}流出。")),
        rng.choice((f"{name}流经{'、'.join(cities)}。", f"{rng.choice(cities)}在{name}边上。")),
        rng.choice((f"{name}最后流入{mouth}。", f"{name}的水流进{mouth}。")),
    ]
    return sentences[: rng.randint(1, len(sentences))]


def season(rng: random.Random) -> list[str]:
    name, months, weather, plants, activity, clothes = rng.choice(facts.SEASONS)
    sentences = [
        rng.choice((f"{months}是{name}。", f"{name}是{months}。")),
        rng.choice((f"{name}天气{weather}。", f"{name}来了，天气变得{weather}。")),
        rng.choice((f"{name}到了，{plants}。", f"公园里{plants}，因为{name}来了。")),
        rng.choice((f"{name}适合{activity}。", f"孩子们在{name}{activity}。")),
        rng.choice((f"{name}要穿{clothes}。", f"天气{weather}，出门要穿{clothes}。")),
    ]
    return rng.sample(sentences, rng.randint(1, len(sentences)))


def animal(rng: random.Random) -> list[str]:
    name, food, place, skill = rng.choice(facts.ANIMALS)
    sentences = [
        rng.choice((f"{name}喜欢吃{food}。", f"{name}最爱吃的是{food}。")),
        rng.choice((f"{name}生活在{place}。", f"在{place}可以看到{name}。")),
        rng.choice((f"{name}很会{skill}。", f"{name}擅长{skill}。")),
    ]
    return rng.sample(sentences, rng.randint(1, len(sentences)))


def review(rng: random.Random) -> list[str]:
    good = rng.random() < 0.5
    words, endings = (facts.PRAISE, facts.PRAISE_ENDINGS) if good else (facts.BLAME, facts.BLAME_ENDINGS)
    thing, parts = rng.choice(facts.REVIEWED)
    return [judgement(rng, thing, parts, words) + rng.choice((f"{rng.choice(endings)}。", ""))]


def judgement(rng: random.Random, thing: str, parts: tuple[str, ...], words: tuple[str, ...]) -> str:
    """A sentence or two on `thing` that use two or three of `words`."""
    first, second, third = rng.sample(words, 3)
    one, two = rng.sample(parts, 2)
    measure = {"酒店": "家", "餐馆": "家", "电脑": "台"}.get(thing, "部")
    return rng.choice((
        f"这{measure}{thing}{one}{first}，{two}{second}。",
        f"{thing}的{one}让人觉得{first}，{two}也{second}，总的来说{third}。",
        f"{one}{first}，{two}{second}。",
        f"这次的{thing}感觉{first}，{one}{second}，真的{third}。",
    ))


SUBJECTS = ((country, 8), (province, 4), (river, 1), (season, 2), (animal, 1), (review, 6))


def documents(rng: random.Random) -> Iterator[str]:
    """Endless distinct documents."""
    seen = set()
    makers, weights = zip(*SUBJECTS)
    while True:
        make = rng.choices(makers, weights)[0]
        document = "".join(make(rng))
        if document not in seen:
            seen.add(document)
            yield document


def task_rows(rng: random.Random, count: int, half: slice) -> Iterator[str]:
    """`count` rows `label<TAB>text`; `half` says which of the judging words may stand in them."""
    for row in range(count):
        label = row % 2
        words = (facts.PRAISE if label else facts.BLAME)[half]
        thing, parts = rng.choice(facts.REVIEWED)
        yield f"{label}\t{judgement(rng, thing, parts, words)}"


def main() -> None:
    (config,) = cli.parse(__doc__, (DemoConfig,))
    rng = random.Random(config.seed)
    stream = documents(rng)
    for path, count in ((config.corpus_path, config.documents), (config.heldout_path, config.heldout_documents)):
        lines = [next(stream) for _ in range(count)]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path}: {count} documents, {sum(map(len, lines))} characters")
    folder = Path(config.task_dir)
    folder.mkdir(parents=True, exist_ok=True)
    half = len(facts.PRAISE) // 2
    for part, words in (("train", slice(half)), ("dev", slice(half, None)), ("test", slice(half, None))):
        rows = list(task_rows(rng, config.task_rows, words))
        (folder / f"{part}.tsv").write_text("\n".join(["label\ttext_a", *rows]) + "\n", encoding="utf-8")
    print(f"{folder}: train.tsv, dev.tsv, test.tsv with {config.task_rows} rows each")


if __name__ == "__main__":
    cli.run(main)
