"""Set up a training: its products, model and inputs, and the losses of a batch.

Several processes share each batch. All draw the same batches, fill the same queue and take the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chapter04_catalogue_reranker.batches import Batch, epoch_batches
from chapter04_catalogue_reranker.examples import Examples
from chapter04_catalogue_reranker.inputs import Inputs
from chapter04_catalogue_reranker.losses import CategoryQueue, listwise_loss, multi_positive_info_nce
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import RerankerData
from chapter04_catalogue_reranker.train_config import TrainConfig
from common.devices import Placement, choose_placement
from common.processes import ALONE, Processes


@dataclass(frozen=True)
class TrainingSetup:
    """Hold the products, the model with its inputs, and the queue of a training. Make one with `of`."""

    config: TrainConfig
    examples: Examples
    model: CatalogueReranker
    inputs: Inputs
    queue: CategoryQueue | None
    placement: Placement
    processes: Processes

    @classmethod
    def of(cls, config: TrainConfig, data: RerankerData, processes: Processes = ALONE) -> TrainingSetup:
        """Choose the products and build a new model, on the device that the torch engine uses.

        config: with its profile's defaults filled in (`resolved`). Raises `CourseError` for too few products and for
        towers that do not load.
        """
        placement = choose_placement("torch")
        examples = Examples.of(data, config)
        model = CatalogueReranker.build(config.architecture(), config.seed).to(placement.device)
        inputs = Inputs(model, examples.products, data.paths, Path(data.catalogue.folder or "."), processes)
        queue = CategoryQueue(config.queue) if config.queue and config.contrastive else None
        return cls(config, examples, model, inputs, queue, placement, processes)

    def start_stage(self, stage: int, checkpoint: Path | None = None, queued: int = 0) -> None:
        """Make the model ready for a stage: load the model of the stage before, freeze, and keep frozen features.

        checkpoint: that model's folder; None before the first stage. queued: rows to make room for in the queue, which
        a resumed run fills.
        """
        if checkpoint is not None:
            self.model.load_weights(checkpoint)
        self.model.zero_grad()  # gradients of weights that are frozen from now on would count in the norm
        self.model.train_parts(stage)
        self.inputs.keep(stage)
        if self.queue is not None:  # its vectors come from a model of which another part changed
            self.queue.reset(queued, self.model.architecture.dimension)

    def batches(self, stage: int, epoch: int) -> list[Batch]:
        """Return the batches of an epoch (from 0) in the order that the seed draws."""
        rng = np.random.default_rng([self.config.seed, stage, epoch])
        return epoch_batches(self.examples.lists, self.examples.train, self.config.batch_size, rng)

    def pixels(self, batch: Batch) -> Tensor | None:
        """Read the pictures of this process's share of a batch; None while the vision tower is frozen."""
        return self.inputs.pixels(self._share(batch.rows))

    def losses(self, batch: Batch, pixels: Tensor | None) -> dict[str, Tensor]:
        """Return the weighted losses of the whole batch by name: "listwise", and "contrastive" if it has a weight.

        pixels: what `pixels` returned for the batch. Each process encodes its share of the products and of the paths,
        and computes the losses of all. The towers run in half precision where the hardware computes in it. A picture
        that cannot be used changes only the vector of its product, so the other processes need not know of it.
        """
        model, inputs, device, gather = self.model, self.inputs, self.placement.device, self.processes.gather
        rows, columns = self._share(batch.rows), self._share(batch.columns)
        with torch.autocast(device, torch.bfloat16, enabled=self.placement.precision == "bfloat16"):
            text, image, paths = inputs.text(rows), inputs.image(rows, pixels), inputs.path(columns)
        present = (inputs.has_text[rows].to(device), inputs.has_image[rows].to(device))
        products = gather(model.embed_products(text, image, *present).fused, len(batch.rows))
        categories = gather(model.embed_categories(paths), len(batch.columns))
        candidates, listed, truth, labels = (
            torch.from_numpy(array).to(device) for array in (batch.candidates, batch.listed, batch.truth, batch.labels)
        )
        scores = model.scale * (products @ categories.T).gather(1, candidates)
        losses = {"listwise": listwise_loss(scores, listed, truth)}
        if self.config.contrastive:
            own = categories[candidates.gather(1, truth[:, None])[:, 0]]
            keys = self.queue.keys() if self.queue else None
            contrastive = multi_positive_info_nce(products, own, labels, keys, scale=model.scale)
            losses["contrastive"] = self.config.contrastive * contrastive
            if self.queue is not None:
                self.queue.push(products, own, labels)
        return losses

    def validation_figures(self) -> dict[str, float]:
        """Measure the model, which must be in evaluation mode, on the validation products."""
        return self.examples.validation_figures(self.inputs)

    def state_dict(self) -> dict[str, Tensor]:
        """Return live tensors for a checkpoint: the weights that are not the pretrained towers', and the queue."""
        weights = self.model.state_dict()
        state = {name: weights[name] for name in self.model.own_names()}
        if self.queue is not None:
            state |= {f"queue.{name}": tensor for name, tensor in self.queue.state_dict().items()}
        return state

    def _share(self, rows: np.ndarray) -> np.ndarray:
        return rows[self.processes.share(len(rows))]
