"""Pictures whose features are known already: they are neither decoded nor encoded again."""

from collections.abc import Sequence
from pathlib import Path

import torch

from vlmtool.data.conversation import Image
from vlmtool.data.image_transform import ImageTransform, read_picture
from vlmtool.data.views import Views
from vlmtool.utils.feature_store import FeatureStore, content_key
from vlmtool.utils.pixels import Pixels


class KnownPictures(ImageTransform):
    """Gives the features of pictures that a store has, and the views of all others with the key to keep them by.

    Args:
        views, image_folder: as of `ImageTransform`.
    """

    def __init__(self, views: Views, image_folder: str | Path, store: FeatureStore) -> None:
        super().__init__(views, image_folder)
        self.store = store

    def __call__(self, images: Sequence[Image]) -> Pixels:
        """What the encoder gets of one or more images."""
        return Pixels.joined([self._one(image) for image in images])

    def _one(self, image: Image) -> Pixels:
        if not isinstance(image.source, str):
            return super().__call__([image])
        path = self.image_folder / image.source
        try:
            content = path.read_bytes()
        except OSError:
            return super().__call__([image])  # which tells what is wrong
        key = content_key(content)
        found = self.store.get(key)
        if found is not None:
            return Pixels(torch.empty(0), found.layout[None], (key,), (found.values,))
        made = self.views([read_picture(content, str(path), self.views.least_side)])
        return Pixels(made.values, made.layouts, (key,), (None,))
