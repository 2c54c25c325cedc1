"""Use trained models from Python; `uer.load` opens them.

    load        opens the model at a path as a TextModel
    text_model  encode, predict, fill_mask
    weights     loads weights into a model and checks that no parameter is missing
    rows        makes padded batches of token ids
    cloze       predicts the masked tokens of sentences
"""
