"""The tokenizer of a Hugging Face folder: opened, or as flags of ours.

    vocab.txt, or tokenizer.json                            BERT's
    tokenizer.json or vocab.json, and maybe merges.txt      byte-level BPE: GPT-2's, Qwen's
    sentencepiece.bpe.model                                 XLM-R's
    special_tokens_map.json, or tokenizer_config.json       the names of [CLS], [SEP] and the other special tokens

transformers 5 writes tokenizer.json and tokenizer_config.json alone.
"""

import os
from itertools import chain
from pathlib import Path
from typing import Any

from uer.errors import UserError
from uer.json_files import read_json_object
from uer.reading import read_bytes
from uer.tokenizers import BertTokenizer, BpeTokenizer, QwenTokenizer, Tokenizer, Vocab, XlmRobertaTokenizer
from uer.tokenizers.bpe import read_merges, without_shared_unk
from uer.tokenizers.sentence_piece import open_model, pieces_of
from uer.tokenizers.vocab import (
    BERT_SPECIAL_TOKENS,
    SHARED_ROLES,
    TOKENIZER_JSON,
    described_tokenizer,
    holds_merges,
    read_any_entries,
    read_special_tokens,
)

SPM_FILE = "sentencepiece.bpe.model"
CONFIG = "tokenizer_config.json"
LEAST_LENGTH = 4  # of a row: [CLS], a token, [SEP], and one of a second text
# Byte-level tokenizers have bos and eos tokens; ours begin a text with [CLS] and end it with [SEP].
AT_THE_ENDS = {"cls_token": "bos_token", "sep_token": "eos_token"}


def read_tokens(folder: str | os.PathLike, size: int = 0) -> list[str]:
    """The vocabulary of a Hugging Face folder.

    Args:
        size: rows of the word embedding. Those that no token of a byte-level tokenizer has get entries such as
            <|unused_151665|>: Qwen's embedding has more rows than its tokenizer tokens.

    Raises:
        UserError: the folder has none, or that of a SentencePiece model.
    """
    if (Path(folder) / SPM_FILE).is_file():
        raise UserError(f"{folder}: its vocabulary is a SentencePiece model: use {SPM_FILE} as --spm_model_path with "
                        "--tokenizer xlmroberta")
    if files := _byte_level_files(folder):
        found = read_any_entries(files[0])
        return Vocab([*found, *(f"<|unused_{number}|>" for number in range(len(found), size))], {}, str(files[0]),
                     {}).tokens
    path = _vocab_file(folder)
    if path is None:
        raise UserError(f"{folder}: holds neither vocab.txt nor tokenizer.json")
    return read_any_entries(path)


def read_tokenizer(folder: str | os.PathLike, size: int = 0) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: BERT's, unless it has the files of GPT-2's, Qwen's or XLM-R's.

    Args:
        size: as for `read_tokens`.

    Raises:
        UserError: a file is missing or damaged, they do not fit one another, or their tokenizer is none of ours.
    """
    if (Path(folder) / SPM_FILE).is_file():
        return _read_sentence_piece(Path(folder) / SPM_FILE)
    if files := _byte_level_files(folder):
        return _read_byte_level(folder, *files, size)
    return BertTokenizer(Vocab(read_tokens(folder), _roles(folder), str(folder)), lower_cases(folder))


def tokenizer_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """The tokenizer of a Hugging Face folder as flags of ours, {} where it has no files; errors as `read_tokenizer`."""
    if (Path(folder) / SPM_FILE).is_file():
        return {"tokenizer": "xlmroberta", "spm_model_path": str(Path(folder) / SPM_FILE)}
    if files := _byte_level_files(folder):
        vocabulary, merges = files
        return {"tokenizer": _byte_level_class(folder, vocabulary).kind, "vocab_path": str(vocabulary),
                "merges_path": str(merges)}
    path, roles = _vocab_file(folder), _roles_file(folder)
    if path is None:
        return {}
    usual = read_special_tokens(roles).items() <= BERT_SPECIAL_TOKENS.items()
    return {"vocab_path": str(path), "do_lower_case": lower_cases(folder),
            **({} if usual or roles.name != CONFIG else {"special_tokens_map": str(roles)})}


def lower_cases(folder: str | os.PathLike) -> bool:
    """Whether the tokenizer of a Hugging Face folder lower-cases; true, transformers' default, where no file tells.

    Raises:
        UserError: the tokenizer treats Chinese characters or accents in a way that ours does not.
    """
    configured, described = Path(folder) / "tokenizer_config.json", Path(folder) / "tokenizer.json"
    settings = [read_json_object(configured)] if configured.is_file() else []
    if described.is_file():
        normalizer = described_tokenizer(described).get("normalizer")
        normalizer = normalizer if isinstance(normalizer, dict) else {}
        settings.append({"do_lower_case": normalizer.get("lowercase"), "strip_accents": normalizer.get("strip_accents"),
                         "tokenize_chinese_chars": normalizer.get("handle_chinese_chars")})

    def told(name: str, default: bool) -> bool:
        return next((content[name] for content in settings if isinstance(content.get(name), bool)), default)

    lower = told("do_lower_case", True)
    if not told("tokenize_chinese_chars", True):
        raise UserError(f"{folder}: its tokenizer does not split Chinese characters (tokenize_chinese_chars is false), "
                        "as UER's does")
    if told("strip_accents", lower) != lower:
        raise UserError(f"{folder}: its tokenizer has strip_accents {str(not lower).lower()} and do_lower_case "
                        f"{str(lower).lower()}; UER's strips accents where it lower-cases")
    return lower


def cutting(folder: str | os.PathLike, most: int) -> tuple[int, str]:
    """How the tokenizer of a Hugging Face folder cuts long texts: `seq_length` and `truncation` of ours.

    Args:
        most: the tokens that the model takes, for folders that name no smaller number.
    """
    path = Path(folder) / CONFIG
    told = read_json_object(path) if path.is_file() else {}
    longest, side = told.get("model_max_length"), told.get("truncation_side")
    shorter = isinstance(longest, (int, float)) and LEAST_LENGTH <= longest < most
    return int(longest) if shorter else most, "tail" if side == "left" else "first"


def _vocab_file(folder: str | os.PathLike) -> Path | None:
    """The file of BERT's vocabulary, None where there is none; vocab.txt lacks the tokens that were added later."""
    listed, described = Path(folder) / "vocab.txt", Path(folder) / TOKENIZER_JSON
    if described.is_file() and not (listed.is_file() and not _added_tokens(described)):
        return described
    return listed if listed.is_file() else None


def _added_tokens(described: Path) -> list[str]:
    """The tokens of a tokenizer.json that its model's vocabulary lacks."""
    content = described_tokenizer(described)
    try:
        own = content["model"]["vocab"]
        return [token["content"] for token in content.get("added_tokens") or () if token["content"] not in own]
    except (KeyError, TypeError):
        return []


def divided_tokens(folder: str | os.PathLike, tokenizer: Tokenizer) -> str:
    """A line on the tokens that were added to a folder's tokenizer, which finds them in every text, where ours divides
    them; "" where there are none."""
    described = Path(folder) / TOKENIZER_JSON
    added = _added_tokens(described) if described.is_file() and not _byte_level_files(folder) else []
    divided = [token for token in added if tokenizer.tokenize(token) != [token]]
    if not divided:
        return ""
    return (f"{folder}: added tokens of its tokenizer are read in pieces here, so texts that hold them give other "
            f"results: {', '.join(divided[:5])}{', ...' if len(divided) > 5 else ''}")


def _byte_level_files(folder: str | os.PathLike) -> tuple[Path, Path] | None:
    """The files of vocabulary and merges of a byte-level BPE, None where the folder has no merges."""
    described, merges = Path(folder) / TOKENIZER_JSON, Path(folder) / "merges.txt"
    if not merges.is_file():
        return (described, described) if described.is_file() and holds_merges(described) else None
    paths = (described, Path(folder) / "vocab.json", Path(folder) / "vocab.txt")
    return next((path for path in paths if path.is_file()), paths[1]), merges


def _byte_level_class(folder: str | os.PathLike, vocabulary: Path) -> type[BpeTokenizer]:
    """The tokenizer that divides text as tokenizer.json says; where there is no such file, that of the class's name.

    Raises:
        UserError: no tokenizer of ours does, as for LLaMA 3 and BLOOM.
    """
    if vocabulary.name == TOKENIZER_JSON:
        for kind in (BpeTokenizer, QwenTokenizer):
            if kind.divides_as(vocabulary):
                return kind
        raise UserError(f"{vocabulary}: divides text otherwise than --tokenizer bpe and qwen; give another vocabulary "
                        "by --vocab_path")
    path = Path(folder) / CONFIG
    named = read_json_object(path).get("tokenizer_class") if path.is_file() else None
    return QwenTokenizer if str(named).removesuffix("Fast") == "Qwen2Tokenizer" else BpeTokenizer


def _read_byte_level(folder: str | os.PathLike, vocabulary: Path, merges: Path, size: int) -> BpeTokenizer:
    """The tokenizer with the roles that the folder names, then bos and eos as cls and sep, then the usual ones: as far
    as each, but for bos and eos, has an entry of its own."""
    kind, tokens = _byte_level_class(folder, vocabulary), read_tokens(folder, size)
    named = without_shared_unk(_roles(folder))
    ends = {role: named[other] for role, other in AT_THE_ENDS.items() if other in named}
    roles, free = {}, set(tokens)
    for role, entry in chain(named.items(), ends.items(), kind.further_special_tokens.items()):
        if role not in roles and (role in SHARED_ROLES or entry in free):
            roles[role] = entry
            free -= {entry} if role not in SHARED_ROLES else set()
    return kind(Vocab(tokens, roles, str(folder), {}), read_merges(merges), str(merges))


def _read_sentence_piece(path: Path) -> XlmRobertaTokenizer:
    model, defaults = read_bytes(path), XlmRobertaTokenizer.default_special_tokens
    entries = XlmRobertaTokenizer.entries(pieces_of(open_model(model, str(path))))
    return XlmRobertaTokenizer(Vocab(entries, dict(defaults), str(path), defaults), model)


def _roles(folder: str | os.PathLike) -> dict[str, str]:
    """Which entry has which role, as the folder names them."""
    return read_special_tokens(_roles_file(folder))


def _roles_file(folder: str | os.PathLike) -> Path:
    path = Path(folder) / "special_tokens_map.json"
    return path if path.is_file() else path.with_name(CONFIG)
