"""The demo's vision encoder: a tiny `CLIPVisionModel` that learns the attributes of drawn scenes with throw-away heads.

The heads read `hidden_states[-2]`, which is what a projector reads, and each patch position answers for one attribute:
so neighbouring patches speak of different things, as the words of a description do. A second set of heads reads the
pooled output, so that the last block and CLS are trained as well.
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from multiprocessing import get_context

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from vlmtool.demo.drawing import draw, encode_jpeg
from vlmtool.demo.scenes import ATTRIBUTES, VALUES, Scene, is_held_out, sample_scene

IMAGE_SIZE, PATCH_SIZE = 64, 16  # pixels
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
MEAN = STD = 0.5  # pixel normalisation
DIGIT_SHARE = 0.5  # of the training scenes: handwriting is the hardest attribute
STEPS, POOL_SIZE = 6000, 60_000
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 64, 1.2e-3, 0.05
GRAY_SHARE = 0.5  # of each batch has its colours taken away
IGNORED = -100


def image_processor() -> CLIPImageProcessorPil:
    """Scales to 64 x 64 and normalises to [-1, 1]; padding to a square comes before it."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )


def pad_to_square(picture: Image.Image) -> Image.Image:
    """Centre a picture on a square of the processor's mean colour (LLaVA's `image_aspect_ratio=pad`)."""
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = Image.new("RGB", (side, side), (int(MEAN * 255),) * 3)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def attribute_labels(scene: Scene) -> list[int]:
    """The class of each attribute, in the order of `ATTRIBUTES`; a missing digit is one class more."""
    return [len(VALUES[a]) if (word := scene.value(a)) is None else VALUES[a].index(word) for a in ATTRIBUTES]


def draw_pool(seed: int, count: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw scenes as the encoder will see them.

    Returns:
        pixels (count, 3, 64, 64) uint8 and classes (count, 8) int64, see `attribute_labels`.
    """
    rng = np.random.default_rng(seed)
    pixels = np.empty((count, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    labels = np.empty((count, len(ATTRIBUTES)), np.int64)
    for row in range(count):
        scene = sample_scene(rng, held_out=held_out, digit_share=DIGIT_SHARE)
        picture = pad_to_square(Image.open(BytesIO(encode_jpeg(draw(scene, rng)))))
        scaled = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        pixels[row] = np.asarray(scaled).transpose(2, 0, 1)
        labels[row] = attribute_labels(scene)
    return pixels, labels


def draw_pools(seed: int, count: int, workers: int = 2) -> tuple[Tensor, Tensor]:
    """`draw_pool` of training scenes, shared among processes."""
    jobs = [(seed * 1000 + worker, count // workers, False) for worker in range(workers)]
    with get_context("spawn").Pool(workers) as pool:
        parts = pool.starmap(draw_pool, jobs)
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 pixels to `pixel_values` (B, 3, 64, 64), as `image_processor` gives them."""
    return (pixels.float() / 255 - MEAN) / STD


# The 2 x 2 patches (of 4 x 4, in reading order) around top, left, bottom and right, the order of VALUES["place"].
PATCHES_AT = torch.tensor([[1, 2, 5, 6], [4, 5, 8, 9], [9, 10, 13, 14], [6, 7, 10, 11]])
COLOUR, PLACE = ATTRIBUTES.index("colour"), ATTRIBUTES.index("place")
OPPOSITE_PLACE = torch.tensor([2, 3, 0, 1])  # where the digit is
SEEN_LOCALLY = tuple(ATTRIBUTES.index(a) for a in ("object", "colour", "size", "digit"))


class AttributeHeads(nn.Module):
    """Throw-away classifiers: one attribute at each patch position; all attributes from the pooled output; and, one
    layer earlier, object and digit from the patches where they are, without which shapes are learned very slowly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        classes = [len(VALUES[a]) + (a == "digit") for a in ATTRIBUTES]
        self.of_patches = nn.ModuleList(nn.Linear(width, n) for n in classes)
        self.of_pooled = nn.ModuleList(nn.Linear(width, n) for n in classes)
        self.of_local = nn.ModuleList(nn.Linear(width, classes[i]) for i in SEEN_LOCALLY)

    def forward(
        self, hidden_states: Sequence[Tensor], pooled: Tensor, places: Tensor
    ) -> list[tuple[int, Tensor, float]]:
        """Predictions as (attribute index, logits (B, K, classes), weight in the loss).

        Args:
            hidden_states: of the encoder, each (B, 17, D); the last but one is what a projector reads.
            pooled: (B, D).
            places: (B,) classes of the object's place.
        """
        patch_features = hidden_states[-2][:, 1:]
        logits = [(i, head(patch_features[:, i :: len(ATTRIBUTES)]), 1.0) for i, head in enumerate(self.of_patches)]
        logits += [(i, head(pooled[:, None]), 0.2) for i, head in enumerate(self.of_pooled)]
        rows = torch.arange(len(places))[:, None]
        for i, head in zip(SEEN_LOCALLY, self.of_local, strict=True):
            at = OPPOSITE_PLACE[places] if ATTRIBUTES[i] == "digit" else places
            nearby = hidden_states[-3][:, 1:][rows, PATCHES_AT[at]]  # (B, 4, D)
            logits.append((i, head(nearby.mean(1, keepdim=True)), 1.0))
        return logits


def possible_classes() -> dict[int, Tensor]:
    """For object, colour and place (by their index): (V', V'', V) bool, the V classes that training can show beside
    the other two attributes' classes, these in the order of `ATTRIBUTES`."""
    shown = torch.tensor(
        [[[not is_held_out(o, c, p) for p in VALUES["place"]] for c in VALUES["colour"]] for o in VALUES["object"]]
    )  # (objects, colours, places)
    return {0: shown.permute(1, 2, 0), 1: shown.permute(0, 2, 1), 2: shown}


def heads_loss(predictions: list[tuple[int, Tensor, float]], target: Tensor) -> Tensor:
    """Cross-entropy summed over the attributes, `target` (B, 8).

    Training shows only some objects beside a colour and a place. Were all objects scored, the encoder would learn to
    rule out the others by colour and place, and so be wrong on exactly the test's combinations. So only those that can
    occur compete (likewise for colours and places): nothing is gained by ruling out. A picture without colours has the
    class `IGNORED` for its colour, and all shapes compete.
    """
    losses = []
    possible = possible_classes()
    for i, logits, weight in predictions:
        if i in possible:
            one, other = (target[:, j].clamp(min=0) for j in range(3) if j != i)
            impossible = ~possible[i][one, other] & (target[:, COLOUR] != IGNORED)[:, None]  # (B, V)
            logits = logits.masked_fill(impossible[:, None], float("-inf"))
        of_each = target[:, i].repeat_interleave(logits.shape[1])
        losses.append(weight * nn.functional.cross_entropy(logits.flatten(0, 1), of_each, ignore_index=IGNORED))
    return torch.stack(losses).sum()


def train_vision_encoder(
    seed: int, say: Callable[[str], None], steps: int = STEPS, pool_size: int = POOL_SIZE
) -> CLIPVisionModel:
    """Train the encoder on drawn training scenes."""
    pixels, labels = draw_pools(seed, pool_size)
    say(f"vision encoder: drew {len(pixels)} pictures")
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=192,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModel(config)
    heads = AttributeHeads(config.hidden_size)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        rows = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
        target = labels[rows].clone()
        pixel_values = normalise(pixels[rows])
        gray = torch.arange(BATCH_SIZE) < GRAY_SHARE * BATCH_SIZE
        pixel_values[gray] = pixel_values[gray].mean(1, keepdim=True)  # a shape must not hang on its colour
        target[gray, COLOUR] = IGNORED
        pixel_values = pixel_values + 0.05 * torch.randn(pixel_values.shape, generator=generator)
        output = model(pixel_values, output_hidden_states=True)
        loss = heads_loss(heads(output.hidden_states, output.pooler_output, target[:, PLACE]), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            say(f"vision encoder: step {step}/{steps}, loss {loss.item():.3f}")
        if step % 250 == 0 or step == steps:
            say(f"vision encoder: unseen scenes read rightly {head_accuracy(model, heads)}")
    return model


@torch.no_grad()
def head_accuracy(model: CLIPVisionModel, heads: AttributeHeads, count: int = 600) -> dict[str, float]:
    """Share of held-out scenes whose attribute the patch heads read rightly."""
    pixels, labels = draw_pool(7, count, held_out=True)
    output = model(normalise(torch.from_numpy(pixels)), output_hidden_states=True)
    predictions = heads(output.hidden_states, output.pooler_output, torch.from_numpy(labels[:, PLACE]))
    shares = {}
    for i, attribute in enumerate(ATTRIBUTES):
        target = labels[:, i]
        right = predictions[i][1].mean(1).argmax(-1).numpy() == target
        shown = target < len(VALUES[attribute])
        shares[attribute] = round(float(right[shown].mean()), 3)
    return shares
