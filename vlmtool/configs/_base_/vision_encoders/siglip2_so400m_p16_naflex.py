# LLaVA's choice for CLIP, commonly kept for SigLIP.
vision_encoder = dict(path="google/siglip2-so400m-patch16-naflex", select_layer=-2)
