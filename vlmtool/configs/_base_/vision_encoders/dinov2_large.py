# The block before the last, as in Prismatic VLMs (arXiv 2402.07865). 336 px: 576 patches, as CLIP gives LLaVA.
vision_encoder = dict(path="facebook/dinov2-large", select_layer=-2, image_size=336)
