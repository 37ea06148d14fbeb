"""A linear probe on the encoder: what a straight line reads out of the patch features, as a ceiling for the model."""

import json
import re
from collections.abc import Iterable, Sequence

import torch
from PIL import Image as PILImage
from torch import Tensor

from vlmtool.chat.generator import Generator
from vlmtool.data.conversation import Image
from vlmtool.demo.data import DemoData
from vlmtool.demo.scenes import VALUES
from vlmtool.evaluation.benchmarks.mmbench import MMBench
from vlmtool.evaluation.files.pictures import decode_picture, open_picture, picture_bytes

RIDGE = 10.0  # pull of the weights towards zero, against fitting noise
BATCH = 256


@torch.inference_mode()
def probe_accuracy(generator: Generator, data: DemoData, test: MMBench) -> float:
    """Share of the test's questions that ridge regression on the patch features answers rightly.

    It is fitted on the captioned training pictures, one regression per attribute, and picks among the options.
    """
    records = json.loads(data.pretrain.read_text())
    pictures = (PILImage.open(data.image_folder / record["image"]) for record in records)
    features = patch_features(generator, pictures)
    captions = [set(re.findall(r"\w+", record["conversations"][1]["value"])) for record in records]
    questions = [row for row in test.rows if row.is_base]
    unseen = patch_features(generator, (decode_picture(open_picture(picture_bytes(row.picture))) for row in questions))
    hits = 0
    for attribute, words in VALUES.items():
        here = [number for number, row in enumerate(questions) if row.category == attribute]
        scores = fit(features, captions, words, unseen[here])
        for number, score in zip(here, scores, strict=True):
            row = questions[number]
            best = max(row.options, key=lambda letter: float(score[words.index(row.options[letter])]))
            hits += best == row.answer
    return hits / len(questions)


def patch_features(generator: Generator, pictures: Iterable[PILImage.Image]) -> Tensor:
    """(P, N * D_vision + 1): each picture's patch features in a row, and a one for the intercept."""
    assert generator.transform is not None
    rows = []
    for batch in batches(list(pictures)):
        pixels = generator.transform([Image(picture) for picture in batch])
        rows.append(generator.model.vision_encoder(pixels.to(generator.model.device)).flatten(1).float().cpu())
    features = torch.cat(rows)
    return torch.cat([features, torch.ones(len(features), 1)], dim=1)


def batches(items: Sequence[PILImage.Image]) -> Iterable[Sequence[PILImage.Image]]:
    """`items` in pieces of `BATCH`."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def fit(features: Tensor, captions: Sequence[set[str]], words: Sequence[str], unseen: Tensor) -> Tensor:
    """Scores (Q, V) of the words for the unseen pictures, by ridge regression on those captions that name one."""
    labels = [next((number for number, word in enumerate(words) if word in caption), None) for caption in captions]
    known = torch.tensor([number for number, label in enumerate(labels) if label is not None])
    x = features[known].double()
    y = torch.nn.functional.one_hot(torch.tensor([label for label in labels if label is not None]), len(words)).double()
    mean, scale = x[:, :-1].mean(0), x[:, :-1].std(0) + 1e-6
    x[:, :-1] = (x[:, :-1] - mean) / scale
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    z = unseen.double()
    z[:, :-1] = (z[:, :-1] - mean) / scale
    return z @ weights
