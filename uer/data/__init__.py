"""From text to batches.

`preprocess.py` uses these modules, which import no torch so that it starts fast:

    corpus, line_cleaner    read files, decompress them, cut them into clean lines
    schema, processors      what a dataset stores; how lines become instances and instances become batches
    draws, word_starts      random choices; where words begin
    build, shard_plan, shards, estimate, summary, work_folder    several processes, restart, the printed summary
    store, packed_offsets   the dataset file

Training uses these, which import torch:

    hashing, order          random numbers as functions of integers; the order of an epoch
    row_fetcher, loader     stored instances as rows; the batches of an update
    batch, sides            the batch; its sequences and next tokens, from stored rows
    masking, noise          which positions are predicted; what the encoder of an encoder-decoder reads
    packing, samples        sizes of batches without padding; which instance a sample is
    token_counts            how frequent each token is
"""
