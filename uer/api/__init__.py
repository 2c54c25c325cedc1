"""Models in use from Python; `uer.load` opens them.

    load         what lies at a path -> a TextModel
    text_model   encode, predict, fill_mask
    weights      a model filled with weights, every parameter covered, on its device
    rows         token ids -> padded batches
    cloze        sentences with [MASK], and the likeliest entries there
    examples     texts -> the examples of a task
    answers      a task's outputs -> predictions
"""
