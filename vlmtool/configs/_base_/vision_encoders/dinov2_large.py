# The block before the last, as in Prismatic VLMs (arXiv 2402.07865).
vision_encoder = dict(path="facebook/dinov2-large", select_layer=-2)
