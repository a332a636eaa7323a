"""The real architecture goes through the same code as the small one: ViT-B-32, its weights random, from a folder."""

from __future__ import annotations

import numpy as np
import pytest

from chapter03_multimodal import prepare_data, reindex, train
from chapter03_multimodal.clip import load_clip, new_clip, save_clip
from chapter03_multimodal.encoder import load_clip_encoder


@pytest.mark.slow
def test_vit_b_32_embeds_fine_tunes_indexes_and_searches(photo_shop, artifacts_root, tmp_path):
    folder, source = tmp_path / "vit", str(photo_shop.folder)
    save_clip(new_clip("ViT-B-32", seed=0), folder)
    files = [photo_shop.folder / path for path in photo_shop.images["path"].head(3)]
    found = load_clip_encoder(str(folder)).encode_images(files)
    assert found.vectors.shape == (3, 512) and not found.unusable

    prepare_data.main(prepare_data.PrepareDataConfig(catalogue=source))
    two_steps = {"pictures": 8, "epochs": 1, "batch_size": 4, "trained": "last_blocks", "neighbours": 2}
    training = train.main(train.TrainConfig(catalogue=source, encoder=str(folder), **two_steps))
    assert training.log["loss"].notna().sum() == 2
    before, after = load_clip(folder), load_clip(training.run.path / "best")
    assert before.digest != after.digest

    pictures = reindex.main(reindex.ReindexConfig(catalogue=source, encoder=reindex.FINE_TUNED))
    assert pictures.embeddings.vectors.shape == (len(pictures.product_ids), 512)
    own = pictures.by_picture.search(files, 1)
    assert own.ids[:, 0].tolist() == photo_shop.images["product_id"].head(3).tolist()
    by_text = pictures.by_text.search(["a red sofa"], 5)
    assert len(set(by_text.ids[0])) == 5 and np.isfinite(by_text.scores).all()
