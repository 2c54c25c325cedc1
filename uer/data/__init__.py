"""From text to batches: corpus, dataset file, epoch order, masks, loader.

`store`, `files`, `corpus`, `build` and the first half of each processor run in `preprocess.py` and import no torch;
`order`, `masking`, `batch` and `loader` run in training.
"""
