"""The loaders of a pretraining run: where the datasets are, what each rank reads, and how batches are laid out."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from uer.config import TrainConfig
from uer.data.loader import EvaluationLoader, Loader
from uer.data.row_fetcher import copied_bytes, open_fetchers
from uer.errors import UserError
from uer.runtime.parallel import World
from uer.training.inputs import Data

FRACTION_FOR_DATA = 0.3  # of the GPU's free memory: a dataset below this size is copied to the GPU


@dataclass(frozen=True)
class Loaders:
    """Makes the loaders of one rank; both share one copy of the datasets."""

    config: TrainConfig
    data: Data
    world: World
    document_start: int | None
    """Id of the token that each document of a row begins with, where attention stays inside of documents."""
    static: bool
    """Whether shapes must not depend on values."""
    reads_padding: bool
    """Whether the encoder does: its hidden states would depend on the longest row of a trimmed batch."""
    both_sides: bool
    """Whether the model has a decoder."""

    def training(self) -> Loader:
        """The loader of the rows that are trained on."""
        config, world = self.config, self.world
        # A `Packing` is the size of the source side alone, so the batches of a model with a decoder keep their padding.
        pack = self.static and config.unpad != "off" and not self.reads_padding and not self.both_sides
        return Loader(self.data.train, self.data.processor, batch_size=config.batch_size,
                      accumulation_steps=config.accumulation_steps, rank=world.data_rank,
                      world_size=world.data_world_size, seed=config.seed, weights=config.dataset_weights,
                      dev_fraction=config.dev_fraction,
                      pack=pack, document_start=self.document_start, **self._placement)

    def held_out(self) -> EvaluationLoader | None:
        """The loader of the rows for evaluation; None without them."""
        config, world = self.config, self.world
        if not self.data.dev and not config.dev_fraction:
            return None
        return EvaluationLoader(self.data.dev or self.data.train, self.data.dev_processor, batch_size=config.batch_size,
                                rank=world.data_rank, world_size=world.data_world_size,
                                dev_fraction=config.dev_fraction, **self._placement)

    @property
    def trim(self) -> bool:
        """Whether positions that are padding in every row are left out."""
        return not self.static and not self.reads_padding

    @cached_property
    def _placement(self) -> dict[str, Any]:
        """The arguments of both loaders that say where the datasets are and where batches are made.

        Raises:
            UserError: the datasets shall be on a GPU, and there is none.
        """
        device, wanted = self.world.device, self.config.dataset_device
        read = self.data.train + self.data.dev, list(self.data.processor.schema())
        on_gpu = device.type == "cuda"
        if wanted == "cuda" and not on_gpu:
            raise UserError("--dataset_device cuda: this run has no GPU")
        fits = on_gpu and copied_bytes(*read) < FRACTION_FOR_DATA * torch.cuda.mem_get_info(device)[0]
        on_device = on_gpu and (wanted == "cuda" or (wanted == "auto" and fits))
        return {"device": device, "fetchers": open_fetchers(*read, device if on_device else "cpu"), "trim": self.trim}
