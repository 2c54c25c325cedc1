"""Commands with bad input: each ends with status 2 and one line that names what is wrong, and changes no file.

The cases have the names that their faults were found under; those that are more than one refused command are in
test_faults.py, or with what they are about.
"""

import re
from pathlib import Path

import pytest

from tests.tools.faults import (
    AVERAGE,
    BACK,
    CLOZE,
    CONVERT,
    EMBED,
    FAMILY,
    FEATURES,
    FINETUNE,
    PREPROCESS,
    PRETRAIN,
    ROOT,
    SQUAD,
    run,
    write_inputs,
)

# name of the case -> (command, words of its one line).
REFUSED: dict[str, tuple[str, str]] = {
    "v_same_specials": (f"{PREPROCESS} --vocab_path shared_roles/vocab.txt", "pad_token and unk_token"),
    "v_map_deep": (f"{PREPROCESS} --vocab_path deep_roles/vocab.txt", "special_tokens_map.json: JSON nested"),
    "pt_out_is_folder": (f"{PRETRAIN} --output_model_path hf_deep", "--output_model_path hf_deep: is a folder"),
    "pt_accumulation": (f"{PRETRAIN} --accumulation_steps 100000000", "--accumulation_steps must be at most"),
    "pp_seq_length": (f"{PREPROCESS} --vocab_path vocab.txt --seq_length 1000000000", "--seq_length must be at most"),
    "pp_report_size": (f"{PREPROCESS} --vocab_path vocab.txt --vocab_report_size -1", "--vocab_report_size must not"),
    "pp_text_field": (f"{PREPROCESS} --vocab_path vocab.txt --text_field=", "--text_field needs the name of a field"),
    "pp_pair_length": (f"{PREPROCESS} --vocab_path vocab.txt --data_processor bert --seq_length 4",
                       "--seq_length must be at least 5 with --data_processor bert"),
    "cfg_decoder": (f"{PRETRAIN} --config_path decoder.json", "decoder"),
    "cfg_dual": (f"{PRETRAIN} --config_path dual.json", "encoder 'dual' and embedding 'dual' need one another"),
    "cfg_pairs": (f"{PRETRAIN} --config_path pairs.json", "encodes pairs of texts, .* nothing pretrains it"),
    "ds_long": (f"{PRETRAIN} --dataset_path long.pt", "long.pt: .*seq_length is 99999999"),
    "ds_lengths": (f"{PRETRAIN} --dataset_path lengths.pt", "lengths.pt: .*damaged .*seq_length is 7"),
    "fam_length_late": (f"{FAMILY} --sizes tiny --seq_length 16 1024", "--seq_length 1024: L-2_H-128 has 512"),
    "fam_mfu0": (f"{FAMILY} --mfu 0", "--mfu must lie"),
    "fam_sizes_flag": (f"{FAMILY} --sizes nope.json", "--sizes nope.json: No such file"),
    "cfg_layers": (f"{PRETRAIN} --config_path layers.json", "layers_num must lie"),
    "cfg_overflow": (f"{PRETRAIN} --config_path overflow.json", "feedforward_size must lie"),
    "cfg_positions": (f"{PRETRAIN} --config_path positions.json", "max_seq_length must lie"),
    "cfg_flag": (f"{PRETRAIN} --max_seq_length 10000000000", "max_seq_length must lie"),
    "cfg_embedding": (f"{PRETRAIN} --config_path dict.json", "'embedding' must be str or a list"),
    "cfg_deep": (f"{PRETRAIN} --config_path deep.json", "deep.json: JSON nested too deeply"),
    "cfg_half_pair": (f"{PRETRAIN} --config_path half.json", "half.json:2: .*surrogate"),
    "cfg_devzero": (f"{PRETRAIN} --config_path /dev/zero", "/dev/zero: is a device"),
    "cfg_fifo": (f"{PRETRAIN} --config_path fifo", "fifo: is a named pipe"),
    "ds_fifo": (f"{PRETRAIN} --dataset_path fifo", "fifo: is a named pipe"),
    "ds_no_specials": (f"{PRETRAIN} --dataset_path no_specials.pt", "no_specials.pt: .*special id 'pad'"),
    "ds_deep_header": (f"{PRETRAIN} --dataset_path deep.pt", "deep.pt: "),
    "ds_bad_specials": (f"{PRETRAIN} --dataset_path bad_specials.pt", "bad_specials.pt: .*special id 'mask' is 25"),
    "ft_fifo": (f"{FINETUNE} --train_path fifo", "fifo: is a named pipe"),
    "ef_fifo": (f"{FEATURES} good.bin --test_path fifo", "fifo: is a named pipe"),
    "cv_manylayers": (f"{CONVERT} layers.bin", "layers.bin: .*are missing"),
    "hf_deep": (f"{BACK} hf_deep", "config.json: JSON nested too deeply"),
    "hf_index_itself": (f"{BACK} x.index.json", "x.index.json: .*is an index itself"),
    "plot_deep": ("scripts/plot_training.py --metrics_path deep.jsonl", "deep.jsonl, line 1"),
    "plot_binary": ("scripts/plot_training.py --metrics_path binary", "binary"),
    "benchmark_rounds": ("scripts/benchmark_loader.py --rounds 0 --batch_size 0", "--batch_size .*--rounds"),
    "benchmark_rows": ("scripts/benchmark_loader.py --small_rows -1", "--small_rows"),
    "benchmark_lengths": ("scripts/benchmark_training.py --seq_lengths 0", "--seq_lengths"),
    "benchmark_fills": ("scripts/benchmark_training.py --fills 2 --seconds -1", "--seconds .*--fills"),
    "benchmark_precisions": ("scripts/benchmark_training.py --precisions fp8", "--precisions: 'fp8'"),
    "benchmark_threads": ("scripts/benchmark_finetune.py --train_path train.tsv --config_path c.json --threads -1",
                          "--threads"),
    "benchmark_corpus": ("scripts/benchmark_preprocess.py --corpus_path empty.txt", "empty.txt: the corpus is empty"),
    "ft_seed": (f"{FINETUNE} --seed -1", "--seed"),
    "ft_seeds": (f"{FINETUNE} --seeds 1 -1", "--seed"),
    "cmrc_seq5": (f"{SQUAD} --seq_length 5", "--seq_length 5"),
    "cmrc_seq4": (f"{SQUAD} --seq_length 4", "--seq_length 4"),
    "cmrc_shape": (f"{SQUAD} --train_path c.json", "c.json: .*data"),
    "c3_shape": (f"{FINETUNE.replace('run_classifier', 'run_c3')} --train_path squad.json --dev_path squad.json",
                 "squad.json: "),
    "simcse_dev": (FINETUNE.replace("run_classifier", "run_simcse"), "train.tsv.*text_b"),
    "sb_grid": ("scripts/scoreboard.py --scoreboard_path board.json --output_dir out/board", "board.json"),
}
# Outputs that are inputs; see also tests/contract/test_paths.py, which goes over all pairs of flags.
OVERWRITTEN: dict[str, tuple[str, str]] = {
    "ft_over_vocab": (f"{FINETUNE} --output_model_path vocab.txt", "vocab.txt"),
    "ft_over_config": (f"{FINETUNE} --output_model_path c.bin", "c.json"),
    "pp_over_vocab": (f"{PREPROCESS} --vocab_path vocab.txt --dataset_path vocab.txt", "vocab.txt"),
    "pp_over_userdict": (f"{PREPROCESS} --vocab_path vocab.txt --whole_word_masking --user_dict user.txt "
                         "--dataset_path user.txt", "user.txt"),
    "pp_over_corpus": (f"{PREPROCESS} --vocab_path vocab.txt --dataset_path text.txt", "text.txt"),
    "bv_over_corpus": ("scripts/build_vocab.py --corpus_path text.txt --output_path text.txt", "text.txt"),
    "pt_over_pretrained": (f"{PRETRAIN} --output_model_path m --pretrained_model_path m-2", "m-2"),
    "pt_over_teacher": (f"{PRETRAIN} --output_model_path m --teacher_model_path m-2 --teacher_config_path c.json",
                        "m-2"),
    "pt_log_over_dataset": (f"{PRETRAIN} --log_path d.pt", "d.pt"),
    "pt_metrics_over_dataset": (f"{PRETRAIN} --metrics_path d.pt", "d.pt"),
    "pt_log_over_vocab": (f"{PRETRAIN} --log_path vocab.txt", "vocab.txt"),
    "cv_over_input": (f"{CONVERT} good.bin --output_model_path good.bin", "good.bin"),
    "cv_over_vocab": (f"{CONVERT} good.bin --vocab_path vocab.txt --output_model_path vocab.txt", "vocab.txt"),
    "ev_over_model": ("scripts/extend_vocab.py --vocab_path vocab.txt --add_tokens x --output_vocab_path out/v "
                      "--pretrained_model_path good.bin --output_model_path good.bin", "good.bin"),
    "ev_same_outputs": ("scripts/extend_vocab.py --vocab_path vocab.txt --add_tokens x --output_vocab_path out/o "
                        "--pretrained_model_path good.bin --output_model_path out/o", "same file, out/o"),
    "ee_over_model": (f"{EMBED} good.bin --word_embedding_path good.bin", "good.bin"),
    "ee_over_vocab": (f"{EMBED} good.bin --word_embedding_path vocab.txt", "vocab.txt"),
    "ef_over_text": (f"{FEATURES} good.bin --prediction_path text.txt", "text.txt"),
    "cl_over_text": (f"{CLOZE} good.bin --test_path text.txt --prediction_path text.txt", "text.txt"),
    "mg_over_input": ("scripts/merge_datasets.py d.pt d.pt --output_path d.pt", "d.pt"),
    "ml_over_train": ("scripts/make_teacher_logits.py --teacher_model_path good.bin --input_path train.tsv "
                      "--output_path train.tsv", "train.tsv"),
    "ml_over_teacher": ("scripts/make_teacher_logits.py --teacher_model_path good.bin --input_path train.tsv "
                        "--output_path good.bin", "good.bin"),
    "inf_over_settings": ("inference/run_classifier_infer.py --load_model_path c.bin --test_path text.txt "
                          "--prediction_path c.json", "c.json"),
    "pp_device": (f"{PREPROCESS} --vocab_path vocab.txt --dataset_path /dev/null", "/dev/null: is not a regular file"),
}
REFUSED |= OVERWRITTEN
for case, words in {"sparse": "sparse tensor", "meta": "meta tensor", "huge": "stored numbers do not make",
                    "int": "int64", "complex": "complex64", "nan": "not finite", "bomb": "would unpack"}.items():
    for command in (AVERAGE, CONVERT, EMBED, FEATURES, CLOZE, f"{PRETRAIN} --pretrained_model_path",
                    f"{FINETUNE} --pretrained_model_path"):
        what = command.split()[0].rpartition("/")[2].removesuffix(".py")
        REFUSED[f"ck_{case}_{what}"] = (f"{command} {case}.bin", f"{case}.bin: .*{words}")
# Cases that are more than a refused command, and stand with what they are about.
ELSEWHERE = {
    "avg_nan": "tests/test_refused_commands.py::test_refused_in_one_line",  # as ck_nan_average_models
    "cv_tmp_folder": "tests/test_files.py::test_the_users_own_files_beside_it_stay",
    "ft_nan_saved": "tests/finetuning/test_resume.py::test_weights_that_are_not_finite_are_never_used_or_saved",
    "ft_nan_pretrained": "tests/finetuning/test_resume.py::test_weights_that_are_not_finite_are_never_used_or_saved",
    "grid_ties": "tests/finetuning/test_resume.py::"
                 "test_ties_are_decided_by_the_settings_in_whatever_order_trials_finish",
    "rank_stopped": "tests/training/test_parallel_runs.py::test_a_stopped_rank_is_named",
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_cases_of_other_files_are_there(case):
    path, _, name = ELSEWHERE[case].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with inputs, good and bad."""
    return write_inputs(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, place, monkeypatch):
    monkeypatch.chdir(place)
    command, words = REFUSED[case]
    before = contents(place)
    done = run(*command.split())
    assert done.status == 2, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(words, done.err), done.err
    assert contents(place) == before


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file in the folder that a command was given; its outputs are in `out`."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()
            if path.name != "out"}


def test_the_good_ones_are_not_refused(place, monkeypatch):
    """What the table refuses is refused for its fault alone."""
    monkeypatch.chdir(place)
    for command in (f"{AVERAGE} good.bin good.bin", f"{EMBED} good.bin", f"{FEATURES} good.bin", f"{CLOZE} good.bin",
                    f"{PRETRAIN} --pretrained_model_path good.bin", f"{PREPROCESS} --vocab_path vocab.txt"):
        done = run(*command.split())
        assert done.status == 0, (command, done.err)
