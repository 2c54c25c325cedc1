"""Every flag of UER-py's commands is a flag of the command of the same name here, script by script."""

import pytest

from tests.tools.scripts import ROOT, flags_of, sections_of

MODEL = """embedding tgt_embedding max_seq_length relative_position_embedding share_embedding remove_embedding_layernorm
    factorized_embedding_parameterization encoder decoder mask layernorm_positioning feed_forward
    relative_attention_buckets_num remove_attention_scale remove_transformer_bias layernorm bidirectional
    parameter_sharing has_residual_attention has_lmtarget_bias target tie_weights pooling prefix_lm_loss"""
TOKENIZER = "tokenizer vocab_path merges_path spm_model_path do_lower_case"
TGT_TOKENIZER = "tgt_tokenizer tgt_vocab_path tgt_merges_path tgt_spm_model_path tgt_do_lower_case"
OPTIMIZER = "learning_rate warmup lr_decay optimizer scheduler"
LOG = "log_path log_level log_file_level"
MASKING = "whole_word_masking span_masking span_geo_prob span_max_length"
ADVERSARIAL = "use_adv adv_type fgm_epsilon pgd_k pgd_epsilon pgd_alpha"
FINETUNE = f"""pretrained_model_path output_model_path train_path dev_path test_path config_path batch_size seq_length
    epochs_num report_steps seed dropout {MODEL} {TOKENIZER} {OPTIMIZER} {LOG}"""
CLASSIFIER = f"{FINETUNE} soft_targets soft_alpha {ADVERSARIAL}"
INFER = f"load_model_path test_path prediction_path config_path batch_size seq_length {MODEL} {TOKENIZER}"
CLASSIFIER_INFER = f"{INFER} labels_num output_logits output_prob"
CONVERSION = "input_model_path output_model_path layers_num"

FLAGS = {
    "preprocess.py": f"""corpus_path dataset_path {TOKENIZER} {TGT_TOKENIZER} processes_num data_processor
        docs_buffer_size seq_length tgt_seq_length dup_factor short_seq_prob full_sentences seed dynamic_masking
        {MASKING} sentence_selection_strategy""",
    "pretrain.py": f"""dataset_path pretrained_model_path output_model_path config_path total_steps
        save_checkpoint_steps report_steps accumulation_steps batch_size instances_buffer_size labels_num dropout
        seed {TOKENIZER} {TGT_TOKENIZER} {MASKING} data_processor deep_init {OPTIMIZER} world_size gpu_ranks
        master_ip backend {LOG} {MODEL}""",
    "finetune/run_classifier.py": CLASSIFIER,
    "finetune/run_classifier_grid.py": f"{CLASSIFIER} batch_size_list learning_rate_list epochs_num_list",
    "finetune/run_classifier_cv.py": f"{CLASSIFIER} folds_num train_features_path",
    "finetune/run_classifier_multi_label.py": FINETUNE,
    "finetune/run_classifier_siamese.py": FINETUNE,
    "finetune/run_regression.py": FINETUNE,
    "finetune/run_simcse.py": FINETUNE + " temperature",
    "finetune/run_ner.py": FINETUNE + " label2id_path crf_target",
    "finetune/run_cmrc.py": FINETUNE + " doc_stride",
    "finetune/run_c3.py": FINETUNE + " max_choices_num",
    "finetune/run_dbqa.py": CLASSIFIER,
    "finetune/run_text2text.py": f"{FINETUNE} tgt_seq_length",
    "inference/run_text2text_infer.py": f"{INFER} tgt_seq_length",
    "finetune/run_classifier_mt.py": FINETUNE + " dataset_path_list",
    "inference/run_classifier_mt_infer.py": f"{INFER} labels_num_list output_logits output_prob",
    "finetune/run_chid.py": f"{FINETUNE} train_answer_path dev_answer_path max_choices_num",
    "inference/run_chid_infer.py": f"{INFER} max_choices_num",
    "finetune/run_classifier_prompt.py": f"{FINETUNE} prompt_id prompt_path",
    "inference/run_classifier_prompt_infer.py": f"{INFER} prompt_id prompt_path",
    "inference/run_dbqa_infer.py": CLASSIFIER_INFER,
    "inference/run_classifier_infer.py": CLASSIFIER_INFER,
    "inference/run_classifier_cv_infer.py": f"{CLASSIFIER_INFER} folds_num test_features_path",
    "inference/run_classifier_multi_label_infer.py": CLASSIFIER_INFER,
    "inference/run_classifier_siamese_infer.py": CLASSIFIER_INFER,
    "inference/run_regression_infer.py": INFER,
    "inference/run_ner_infer.py": INFER + " label2id_path crf_target",
    "inference/run_cmrc_infer.py": INFER + " doc_stride",
    "inference/run_c3_infer.py": INFER + " max_choices_num",
    "scripts/average_models.py": "model_list_path output_model_path",
    "scripts/build_vocab.py": "corpus_path output_path tokenizer delimiter workers_num min_count",
    "scripts/cloze_test.py": f"""load_model_path config_path test_path prediction_path batch_size seq_length topn
        {MODEL} {TOKENIZER}""",
    "scripts/extract_embeddings.py": "load_model_path vocab_path word_embedding_path",
    "scripts/extract_features.py": f"load_model_path config_path test_path prediction_path batch_size seq_length "
                                   f"whitening_size pooling {TOKENIZER}",
    "scripts/generate_lm.py": f"""load_model_path config_path test_path prediction_path seq_length top_k top_p
        temperature {MODEL} {TOKENIZER}""",
    "scripts/generate_seq2seq.py": f"""load_model_path config_path test_path prediction_path seq_length tgt_seq_length
        top_k top_p temperature {MODEL} {TOKENIZER} {TGT_TOKENIZER}""",
    "scripts/topn_words_indep.py": "load_model_path vocab_path test_path topn",
    "scripts/topn_words_dep.py": "load_model_path vocab_path cand_vocab_path test_path config_path batch_size "
                                 "seq_length topn",
    "scripts/diff_vocab.py": "vocab_1 vocab_2",
    "scripts/dynamic_vocab_adapter.py": "old_model_path new_model_path old_vocab_path new_vocab_path",
    "scripts/run_lgb.py": "train_path test_path train_features_path test_features_path models_num labels_num",
    "scripts/run_lgb_cv_bayesopt.py": "train_path train_features_path models_num folds_num labels_num epochs_num",
    "scripts/convert_bert_from_uer_to_huggingface.py": f"{CONVERSION} type",
    "scripts/convert_bert_from_huggingface_to_uer.py": f"{CONVERSION} type",
    **{f"scripts/convert_{name}_from_{way}.py": f"{CONVERSION} {more}"
       for name, more in (("bert", "type"), ("albert", ""))
       for way in ("original_tf_to_uer", "uer_to_original_tf")},
    **{f"scripts/convert_{family}_from_{way}.py": f"{CONVERSION} {own}" for family, own in
       (("bart", "decoder_layers_num"), ("t5", "decoder_layers_num type"), ("pegasus", "decoder_layers_num"),
        ("sbert", ""), ("gpt2", ""), ("albert", ""), ("xlmroberta", ""))
       for way in ("uer_to_huggingface", "huggingface_to_uer")},
    **{f"scripts/convert_bert{head}_from_{way}.py": CONVERSION
       for head in ("_text_classification", "_token_classification", "_extractive_qa")
       for way in ("uer_to_huggingface", "huggingface_to_uer")},
}


@pytest.mark.parametrize("script", FLAGS)
def test_every_flag_of_uer_py_is_there(script):
    missing = set(FLAGS[script].split()) - {field.name for field in flags_of(sections_of(script))}
    assert not missing, f"{script} lacks: {', '.join(sorted(missing))}"


def test_every_task_has_a_line():
    built = {f"{folder}/{path.name}" for folder in ("finetune", "inference")
             for path in (ROOT / folder).glob("run_*.py")}
    assert built <= FLAGS.keys(), "a command without a line in FLAGS"
