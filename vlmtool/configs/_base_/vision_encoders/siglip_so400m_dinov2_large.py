# Prismatic VLMs (arXiv 2402.07865): DINOv2 sees places and shapes that SigLIP misses. Both at 384 px: 27 × 27 patches.
vision_encoder = dict(
    path="google/siglip-so400m-patch14-384",
    select_layer=-2,
    beside=dict(path="facebook/dinov2-large", select_layer=-2),
)
