"""Lengths of records as in LLaVA-1.5's mixture of 665,000.

`MIXTURE` has its sources with the number of records of each, from table 7 of the paper (https://arxiv.org/abs/2310.03744).
Tokens of text per record are drawn from a log-normal around the median given there, which is an assumption on turns and
words of each source, not a count; so is the share that is supervised.
"""

from dataclasses import dataclass

import torch

# Source: thousands of records, whether they have a picture, median of text tokens, their spread, supervised share.
MIXTURE = {
    "LLaVA instructions": (158, True, 230, 0.5, 0.75),
    "ShareGPT": (40, False, 900, 0.8, 0.8),
    "VQAv2": (83, True, 130, 0.5, 0.15),
    "GQA": (72, True, 160, 0.4, 0.15),
    "OKVQA": (9, True, 60, 0.4, 0.15),
    "OCR-VQA": (80, True, 120, 0.3, 0.3),
    "A-OKVQA": (66, True, 100, 0.3, 0.1),
    "TextCaps": (22, True, 70, 0.2, 0.25),
    "RefCOCO": (48, True, 190, 0.4, 0.4),
    "Visual Genome": (86, True, 350, 0.4, 0.45),
}
MAX_LENGTH = 2048


@dataclass(frozen=True)
class Drawn:
    """A record's lengths."""

    pictures: int
    text: int
    """Tokens of its text, the supervised ones among them."""
    supervised: int


def draw(count: int, num_patches: int, scale: float = 1.0) -> list[Drawn]:
    """Records of the mixture, the same ones each time.

    Args:
        num_patches: image tokens of a picture; with its text a record has `MAX_LENGTH` tokens at most.
        scale: of the lengths of the texts.
    """
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([float(source[0]) for source in MIXTURE.values()])
    numbers = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
    sources = [list(MIXTURE.values())[number] for number in numbers]
    noise = torch.randn(count, generator=generator).tolist()
    records = []
    for (_, pictured, median, spread, share), z in zip(sources, noise, strict=True):
        text = max(8, min(round(scale * median * 2.718281828 ** (spread * z)), MAX_LENGTH - num_patches))
        records.append(Drawn(int(pictured), text, max(1, round(share * text))))
    return records
